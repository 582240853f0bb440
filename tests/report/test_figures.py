"""Figures: what is drawn from run directories, that it is the same when drawn again, and that it can be read."""

import json
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import pytest

from rtx_lab.core.errors import RunError
from rtx_lab.report import fonts, style
from rtx_lab.report.choice import named, number_groups
from rtx_lab.report.figures import draw
from rtx_lab.report.groups import find_factors, group_runs
from rtx_lab.report.learning import over_seeds
from rtx_lab.report.runs import load_runs

SECTIONS = ["learning", "summaries", "denoising", "steps", "connections", "cost", "factors"]
CONFIG = """\
model:
  _target_: rtx_lab.models.connection_transformer.ConnectionTransformer
  d_model: 64
  num_slots: {slots}
  connection: {connection}
dataset:
  _target_: rtx_lab.data.generated.{dataset}
phase: main
seed: {seed}
"""


def write_run(root, *, slots=16, seed=0, dataset="reasoning", connection="diag", accuracy=0.8, maps=True, **more):
    """A finished run directory with everything that figures read."""
    folder = Path(root, "main", f"{dataset}-{connection}-n{slots}-seed{seed}")
    folder.mkdir(parents=True)
    config = CONFIG.format(slots=slots, seed=seed, dataset=dataset, connection=connection)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    metrics = {"validation/accuracy": accuracy, "test/accuracy": accuracy - 0.01, "test/n": 200}
    metrics |= {f"test/steps_histogram/{k}": share for k, share in enumerate((0.0, 0.25, 0.5, 0.25))}
    metrics |= {f"test/difficulty/{k}/avg_reasoning_steps": 1.0 + k / 4 for k in (1, 2, 3)}
    result = {"status": "done", "monitor": "validation/accuracy", "metrics": metrics, "time_s": 60.0 + slots}
    result |= {"parameters": 1000 * slots, "peak_memory_gb": 0.4 + slots / 100} | more
    (folder / "result.json").write_text(json.dumps(result))
    lines = [{"step": step, "loss": 3.0 - step / 20, "tokens_per_s": 900.0 + step + seed} for step in range(5, 45, 5)]
    lines += [{"step": step, "validation/accuracy": accuracy * step / 40} for step in (20, 40)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if maps:
        rows = [[abs(i - j) / 4 for j in range(4)] for i in range(4)]
        kept = {"num_slots": slots, "slots_per_cell": slots // 4, "strength": rows}
        kept["histogram"] = {"low": 0.25, "high": 0.75, "counts": [6, 4, 2]}
        (folder / "connections.json").write_text(json.dumps(kept))
    return folder


def draw_all(root, folder):
    runs = load_runs(Path(root))
    groups = group_runs(runs)
    return draw(runs, groups, find_factors(groups), Path(folder))


def study(root, slots=(8, 16, 32), seeds=(0, 1), **more):
    for number in slots:
        for seed in seeds:
            write_run(root, slots=number, seed=seed, accuracy=0.7 + number / 400 + seed / 50, **more)


def test_a_study_is_drawn_by_section_and_every_figure_is_told_in_words(tmp_path):
    study(tmp_path / "runs", predicted_peak_memory_gb=0.5, price={"flops_per_step": 2.0e9})
    drawn = draw_all(tmp_path / "runs", tmp_path / "report")
    assert list(drawn) == SECTIONS
    names = {section: [figure.name for figure in figures] for section, figures in drawn.items()}
    assert names["learning"] == ["learning_loss", "learning_accuracy"]
    assert names["factors"] == ["accuracy_by_model_num_slots"]
    assert names["steps"] == ["steps_histogram", "steps_by_difficulty"]
    assert names["connections"] == ["connections_1", "connections_2", "connections_3", "connection_strengths"]
    costs = ["accuracy_vs_parameters", "accuracy_vs_flops", "accuracy_vs_time", "memory", "speed"]
    assert names["cost"] == costs
    for figure in (figure for figures in drawn.values() for figure in figures):
        assert figure.caption.endswith(".")
        assert figure.alt.endswith(".")
        for ending, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
            assert (tmp_path / "report" / "figures" / f"{figure.name}.{ending}").read_bytes().startswith(start)
    assert "4 x 4 slots" in drawn["connections"][1].caption, "a map says over what it was averaged"
    assert "0.720 at 8" in drawn["factors"][0].alt, "the mean over both seeds at 8 slots"


def test_figures_for_which_there_are_no_numbers_are_left_out(tmp_path):
    study(tmp_path / "runs", maps=False)
    drawn = draw_all(tmp_path / "runs", tmp_path / "report")
    assert drawn["connections"] == []
    assert [figure.name for figure in drawn["cost"]] == ["accuracy_vs_parameters", "accuracy_vs_time", "speed"]


def test_the_same_runs_give_the_same_bytes_whatever_the_settings_of_the_reader(tmp_path):
    import matplotlib

    study(tmp_path / "runs", slots=(8, 16), seeds=(0,), predicted_peak_memory_gb=0.5)
    draw_all(tmp_path / "runs", tmp_path / "first")
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "savefig.dpi": 40}):
        before = dict(matplotlib.rcParams)
        draw_all(tmp_path / "runs", tmp_path / "second")
        assert dict(matplotlib.rcParams) == before, "drawing leaves no setting behind"
    files = sorted((tmp_path / "first" / "figures").iterdir())
    assert len(files) > 20
    for file in files:
        assert file.read_bytes() == (tmp_path / "second" / "figures" / file.name).read_bytes(), file.name
    assert not [file for file in files if file.suffix == ".svg" and "dc:date" in file.read_text()]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    write_run(tmp_path / "runs")
    (tmp_path / "figures").write_text("a file where the folder should be")
    with pytest.raises(RunError, match="cannot write"):
        draw_all(tmp_path / "runs", tmp_path)


def test_an_empty_study_draws_nothing(tmp_path):
    assert draw([], [], [], tmp_path) == {name: [] for name in SECTIONS}
    assert list(tmp_path.iterdir()) == []


EMPTY = '{"metrics": null, "status": "done", "strength": 3, "step": "x"}\n'


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("result.json", "{"), ("result.json", EMPTY), ("metrics.jsonl", EMPTY)),
        *(("connections.json", EMPTY), ("config.yaml", "{")),
    ],
)
def test_a_single_damaged_run_is_drawn_as_far_as_it_goes(tmp_path, name, damage):
    (write_run(tmp_path / "runs") / name).write_text(damage)
    assert list(draw_all(tmp_path / "runs", tmp_path / "report")) == SECTIONS


def test_a_single_run_has_all_figures_but_the_comparing_ones(tmp_path):
    write_run(tmp_path / "runs")
    drawn = draw_all(tmp_path / "runs", tmp_path / "report")
    assert [drawn.pop(name) for name in ("factors", "denoising", "summaries")] == [[], [], []]
    assert all(drawn.values())


def test_datasets_are_drawn_apart(tmp_path):
    for dataset in ("reasoning", "추론"):
        study(tmp_path / "runs", slots=(8,), seeds=(0,), dataset=dataset, maps=False)
    drawn = draw_all(tmp_path / "runs", tmp_path / "report")
    assert [figure.name for figure in drawn["steps"]] == [
        *("steps_histogram_reasoning", "steps_by_difficulty_reasoning"),
        *("steps_histogram_추론", "steps_by_difficulty_추론"),
    ]


def test_more_settings_than_a_reader_tells_apart_are_grey_and_counted(tmp_path):
    study(tmp_path / "runs", slots=range(8, 8 + style.MOST_LINES + 2), seeds=(0,), maps=False)
    drawn = draw_all(tmp_path / "runs", tmp_path / "report")
    assert "2 others are drawn in grey" in drawn["learning"][0].caption
    assert "N=8 " not in drawn["learning"][0].alt, "the worst by validation has no name"


def test_a_setting_looks_the_same_in_every_figure(tmp_path):
    study(tmp_path, slots=range(8, 20), seeds=(0,))
    groups = group_runs(load_runs(tmp_path))
    numbers = number_groups(groups)
    assert sorted(numbers.values()) == list(range(style.MOST_LINES))
    some = [*groups[:4], *groups[-3:]]  # four that have no number of their own, three that have one
    best, others = named(some, numbers)
    assert others == []
    assert [number for number, _ in best][4:] == [numbers[id(group)] for group in groups[-3:]]
    assert len({number for number, _ in best}) == len(some), "no look is given twice"


def test_every_colour_has_one_for_the_dark():
    light = {colour.lower() for colour in (*style.COLOURS, style.INK, style.FAINT, style.EDGE, style.GRID)}
    assert light <= set(style.IN_THE_DARK)
    assert len(set(style.IN_THE_DARK.values())) == len(style.IN_THE_DARK)


def test_words_as_values_are_drawn_as_numbers_are(tmp_path):
    for connection in ("diag", "dense", "a_connection_with_a_very_long_name_indeed"):
        write_run(tmp_path / "runs", connection=connection)
    drawn = draw_all(tmp_path / "runs", tmp_path / "report")
    assert "accuracy_by_model_connection" in [figure.name for figure in drawn["factors"]]


def test_a_report_loads_neither_torch_nor_pyplot(tmp_path):
    study(tmp_path / "runs", slots=(8, 16), seeds=(0,))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from rtx_lab.report.runs import load_runs; from rtx_lab.report.groups import find_factors, group_runs\n"
        "from rtx_lab.report.figures import draw\n"
        "runs = load_runs(Path(sys.argv[2])); groups = group_runs(runs)\n"
        "draw(runs, groups, find_factors(groups), Path(sys.argv[3]))\n"
        "print({'torch', 'matplotlib.pyplot', 'hydra', 'koreanize_matplotlib'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, root, tmp_path / "runs", tmp_path / "report"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_curve_is_the_mean_with_the_extremes_of_the_runs_that_logged_the_step():
    first = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 4.0}, {"step": 3}, {"loss": 9.0}]
    second = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": None}, {"step": 2, "loss": True}]
    assert over_seeds([first, second], "loss") == [(1, 2.0, 1.0, 3.0), (2, 4.0, 4.0, 4.0)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0451, "0.0451"), (999.4, "999"), (999.9, "1k"), (237056, "237k"), (5.48e6, "5.48M"), (2e12, "2T")],
)
def test_amounts_are_short(value, text):
    assert style.compact(value) == text


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        ("transformer-diag, N=64", ["transformer-", "diag, N=64"]),
        ("a" * 40, ["a" * 12, "...aaaaaaaaa", "aaa"]),
        ("연결 방식의 이름", ["연결 방식의", "이름"]),
        ("연결" * 20, ["연결연결연결", "...연결연결", "연결"]),
    ],
)
def test_long_names_are_broken_by_their_breadth_and_cut_in_the_middle(text, lines):
    assert style.wrap(text, 12).split("\n") == lines


@pytest.mark.parametrize(
    "values", [(8, 16, 32, 64, 128, 256, 512), (0.001, 0.01, 0.1), (64, 65, 66, 512), (4, 5), (7,)]
)
def test_labels_of_values_do_not_touch(values):
    with style.drawing():
        figure, axes = style.sheet()
        style.scale(axes, "x", values)
        figure.canvas.draw()
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert len(boxes) >= min(2, len(values))
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def _draw_word(word, families):
    import matplotlib

    with style.drawing(), warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that no font has
        matplotlib.rcParams["font.family"] = families
        figure, axes = style.sheet()
        axes.set_xlabel(word)
        figure.canvas.draw()
        return bytes(figure.canvas.buffer_rgba())


def test_hangul_is_drawn_and_not_as_the_box_of_a_missing_glyph():
    families = fonts.families()
    assert _draw_word("문턱", families) != _draw_word("슬롯", families)
    with pytest.raises(UserWarning, match="missing from font"):
        _draw_word("문턱", [fonts.LATIN])


def test_without_a_korean_font_figures_are_set_in_latin(monkeypatch):
    monkeypatch.setattr(fonts, "HANGUL", ())
    assert fonts.families() == [fonts.LATIN]
