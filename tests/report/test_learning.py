"""Learning curves of which one point is known: it must be seen."""

import pytest
from written_runs import answers, write_run

from rtx_lab.report import style
from rtx_lab.report.choice import number_groups
from rtx_lab.report.groups import group_runs
from rtx_lab.report.learning import draw_learning
from rtx_lab.report.runs import load_runs


def draw(root, folder):
    groups = group_runs(load_runs(root))
    with style.drawing():
        return {figure.name: figure for figure in draw_learning(groups, number_groups(groups), folder, "")}


def count_pixels(path, colour):
    """Pixels of about this colour inside the axes: beside their labels and above the legend."""
    from matplotlib.image import imread

    picture = imread(path)[20:524, 135:930, :3]
    wanted = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return int((abs(picture - wanted).max(axis=2) < 0.02).sum())


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_settings_evaluated_once_are_markers_beside_each_other(tmp_path, seeds):
    for slots in (64, 128):
        for seed in seeds:  # of one height: neither may hide the other
            write_run(tmp_path, answers(60), model__num_slots=slots, seed=seed, validation=0.5 + seed / 10)
    drawn = draw(tmp_path, tmp_path / "report")
    path = tmp_path / "report" / "figures" / "learning_accuracy.png"
    for colour in style.COLOURS[:2]:
        assert count_pixels(path, colour) > 100
    assert "Measured once: a marker" in drawn["learning_accuracy"].caption
    assert "Measured once" not in drawn["learning_loss"].caption


def test_grey_settings_evaluated_once_are_dots(tmp_path):
    for slots in range(1, style.MOST_LINES + 3):
        write_run(tmp_path, answers(60), model__num_slots=slots, validation=slots / 20)
    drawn = draw(tmp_path, tmp_path / "report")
    assert "2 others are drawn in grey" in drawn["learning_accuracy"].caption
    assert count_pixels(tmp_path / "report" / "figures" / "learning_accuracy.png", style.FAINT) > 50


def test_a_curve_and_a_single_point_share_a_figure(tmp_path):
    write_run(tmp_path, answers(60), model__num_slots=64, validation=0.4)
    longer = write_run(tmp_path, answers(60), model__num_slots=128, validation=0.6)
    longer.append_metrics({"step": 30, "validation/accuracy": 0.7})
    draw(tmp_path, tmp_path / "report")
    for colour in style.COLOURS[:2]:
        assert count_pixels(tmp_path / "report" / "figures" / "learning_accuracy.png", colour) > 60
