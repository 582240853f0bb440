"""The section on denoisers: its table, its sentences on gates, its figures, and what is not there."""

import json

import pytest
from written_denoisers import HALF, MASKED, RECURSIVE, record, records_of, write_denoiser
from written_runs import answers, write_run

from rtx_lab.report import style
from rtx_lab.report.build import build_report, compose, read_study
from rtx_lab.report.choice import number_groups
from rtx_lab.report.denoising import say_gates
from rtx_lab.report.denoising_curves import HALF as HALF_PERCENT
from rtx_lab.report.denoising_curves import draw_denoising

FIGURES = ["denoising_accuracy", "denoising_loss", "denoising_steps", "denoising_accuracy_vs_flops"]
FIGURES += ["denoising_loss_vs_flops"]


def section(root, title="Denoising"):
    parts = compose(read_study(root), "study", {}).sections
    return next((part for part in parts if part.title == title), None)


def drawn(root, folder):
    groups = read_study(root).groups
    with style.drawing():
        return {figure.name: figure for figure in draw_denoising(groups, number_groups(groups), folder, "")}


def rows_of(part):
    (table,) = part.tables
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def has_colour(path, colour):
    """Whether a line, a mark or a bar of this colour is seen above the legend."""
    from matplotlib.image import imread

    picture = imread(path)[20:524, 135:, :3]
    wanted = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return int((abs(picture - wanted).max(axis=2) < 0.02).sum()) > 50


def change_metrics(run, **changes):
    """Set metrics of a run, `__` for a slash; None takes one away."""
    result = json.loads(run.result_path.read_text())
    for key, value in changes.items():
        result["metrics"][f"test/{key.replace('__', '/')}"] = value
    run.result_path.write_text(json.dumps(result))


def gate(root, *seeds, settings=RECURSIVE):
    """The first sentence on a gate whose runs measured these (rho, p)."""
    for seed, (rho, p) in enumerate(seeds):
        run = write_denoiser(root, records_of(), seed=seed, model=settings)
        change_metrics(run, gate_follows_difficulty=rho, gate_follows_difficulty_p=p)
    return (say_gates(read_study(root).groups) or [""])[0]


def test_the_table_has_each_setting_at_10_50_and_90_percent(tmp_path):
    for seed in (0, 1, 2):
        write_denoiser(tmp_path, records_of(skill=0.6 + seed / 50), seed=seed)
        write_denoiser(tmp_path, records_of(skill=0.5, passes=1), seed=seed, model=MASKED)
    rows = rows_of(section(tmp_path))
    assert [row["hidden"] for row in rows] == ["10 %"] * 2 + ["50 %"] * 2 + ["90 %"] * 2
    assert len({row["setting"] for row in rows}) == 2
    groups = read_study(tmp_path).groups
    (recursive,) = (group for group in groups if group.settings["model"] == "recursive_denoiser")
    (row,) = (row for row in rows if row["hidden"] == "50 %" and "recursive" in row["setting"])
    low, high = recursive.interval("test/mask/50/accuracy")
    assert row["accuracy"] == f"{recursive.mean('test/mask/50/accuracy'):.3f}"
    assert row["95 % interval"] == f"{low:.3f} to {high:.3f}"
    assert row["BLEU"] == f"{recursive.mean('test/mask/50/bleu'):.3f}"
    assert (row["steps"], row["MFLOPs"]) == ("10.50", "387")


def test_an_interval_of_tokens_is_never_that_of_n_right_or_wrong_items(tmp_path):
    write_denoiser(tmp_path, records_of())
    (group,) = read_study(tmp_path).groups
    for key in ("test/accuracy", "test/mask/50/accuracy", "test/mask/50/loss"):
        assert group.interval(key) == (group.mean(f"{key}_low"), group.mean(f"{key}_high"))


def test_equal_seeds_do_not_hide_that_texts_are_chance(tmp_path):
    for seed in (0, 1, 2):
        write_denoiser(tmp_path, records_of(), seed=seed)
    (group,) = read_study(tmp_path).groups
    low, high = group.interval("test/mask/50/loss")
    assert (low, high) == pytest.approx((group.mean("test/mask/50/loss_low"), group.mean("test/mask/50/loss_high")))
    assert low < group.mean("test/mask/50/loss") < high


def test_other_ratios_than_the_usual_are_told_by_their_ends_and_middle(tmp_path):
    records = [record(text, ratio, skill=0.5, steps=3) for ratio in (0.15, 0.25, 0.4, 0.8) for text in range(9)]
    write_denoiser(tmp_path, records)
    assert [row["hidden"] for row in rows_of(section(tmp_path))] == ["15 %", "40 %", "80 %"]
    assert list(drawn(tmp_path, tmp_path)) == FIGURES[:3]


def test_a_gate_that_counts_is_said_to(tmp_path):
    said = gate(tmp_path, (0.012, 0.6))
    assert "the gate follows how much is hidden (mean steps 2.50 at 10 % hidden, 20.50 at 100 %)" in said
    assert said.endswith("not how hard the text is as far as can be told: rho = +0.012, p = 0.600.")


@pytest.mark.parametrize(
    ("rho", "words"),
    [
        (0.4, "it also follows difficulty: harder texts take more steps: rho = +0.400, p < 0.001"),
        (0.05, "it also follows difficulty, though slightly: harder"),
        (-0.4, "; harder texts take fewer steps: rho = -0.400"),
    ],
)
def test_a_gate_that_follows_difficulty_is_said_to(tmp_path, rho, words):
    assert words in gate(tmp_path, (rho, 1e-6))


def test_over_seeds_the_largest_p_counts_and_signs_must_agree(tmp_path):
    said = gate(tmp_path / "one", (0.3, 1e-6), (0.1, 0.2))
    assert "as far as can be told: rho = +0.200 (2 seeds, +0.100 to +0.300), p = 0.200" in said
    assert "as far as can be told: rho = +0.050 (2 seeds" in gate(tmp_path / "two", (0.3, 1e-6), (-0.2, 1e-6))


def test_gates_are_corrected_together(tmp_path):
    gate(tmp_path, (0.05, 0.04))
    gate(tmp_path, (0.4, 1e-6), settings=RECURSIVE | {"gate_target": "entropy"})
    counted, hard, method = say_gates(read_study(tmp_path).groups)
    assert "p = 0.040" in counted
    assert "p < 0.001" in hard
    assert "Holm" in method
    gate(tmp_path, (0.05, 0.03), settings=RECURSIVE | {"gate_target": "token_error"})
    assert sum("p = 0.060" in line for line in say_gates(read_study(tmp_path).groups)) == 2


def test_a_gate_without_spread_and_models_without_gate(tmp_path):
    records = [one | {"steps": 5} for one in records_of()]
    write_denoiser(tmp_path, records)
    write_denoiser(tmp_path, records_of(passes=1), model=MASKED)
    write_denoiser(tmp_path, records_of(gate=1), model=MASKED | {"objective": "cmlm"})
    (said,) = say_gates(read_study(tmp_path).groups)
    assert "recursive_denoiser" in said
    assert "the gate does not follow how much is hidden (mean steps 5.00 at 10 % hidden" in said
    assert "cannot be told: no two texts with equally much hidden took different steps" in said


def test_the_figures_are_all_there_and_the_same_bytes_again(tmp_path):
    for seed in (0, 1):
        write_denoiser(tmp_path, records_of(skill=0.6 + seed / 50), seed=seed)
        write_denoiser(tmp_path, records_of(skill=0.5, passes=1), seed=seed, model=MASKED)
        cmlm = records_of(skill=0.55, passes=10)
        write_denoiser(tmp_path, cmlm, seed=seed, model=MASKED | {"objective": "cmlm"})
    figures = drawn(tmp_path, tmp_path / "one")
    assert list(figures) == FIGURES == list(drawn(tmp_path, tmp_path / "two"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "one" / "figures").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two" / "figures").iterdir()}
    assert sorted(files) == sorted(f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg"))
    captions = {name: figure.caption for name, figure in figures.items()}
    assert "Dashed: always guessing the most frequent token" in captions["denoising_accuracy"]
    assert "Dashed" not in captions["denoising_loss"]
    assert "1, 2, 4, 8, 16 steps or passes" in captions["denoising_accuracy_vs_flops"]
    assert "that of their first pass" in captions["denoising_loss_vs_flops"]
    assert "that of their first pass" not in captions["denoising_accuracy_vs_flops"]
    assert "objective=mlm" not in figures["denoising_steps"].alt, "one pass is no line of steps"
    for colour in style.COLOURS[:3]:
        assert has_colour(tmp_path / "one" / "figures" / "denoising_accuracy_vs_flops.png", colour)


def test_the_report_has_the_section_and_two_figures_of_loss(tmp_path):
    write_denoiser(tmp_path, records_of())
    parts = {part.title: [figure.name for figure in part.figures] for part in build_report(tmp_path).sections}
    assert parts["Denoising"] == FIGURES
    assert parts["Results"] == ["learning_loss", "learning_validation_loss"]


def test_without_fixed_steps_a_model_is_a_single_mark(tmp_path):
    write_denoiser(tmp_path, records_of(fixed=False))
    figures = drawn(tmp_path, tmp_path)
    assert list(figures) == FIGURES
    assert "Connected" not in figures[FIGURES[3]].caption
    assert "Single marks" in figures[FIGURES[3]].caption


def test_missing_pieces_give_no_error(tmp_path):
    run = write_denoiser(tmp_path, records_of())
    change_metrics(run, mask__50__loss=None, mask__90__flops=None, mask__10__bleu=None, fixed__4__accuracy=None,
                   mask__30__avg_reasoning_steps=None, mask__x__loss=1.0)  # fmt: skip
    killed = write_denoiser(tmp_path, records_of(), seed=1)
    killed.result_path.unlink()
    killed.predictions_path.unlink()
    write_denoiser(tmp_path, records_of(), seed=2, result={"status": "diverged", "reason": "nan"})
    write_denoiser(tmp_path, records_of(), model=MASKED).result_path.unlink()
    assert [row["loss"] for row in rows_of(section(tmp_path))][1] == "-"
    assert list(drawn(tmp_path, tmp_path)) == FIGURES


def test_only_killed_denoisers_have_no_section(tmp_path):
    write_denoiser(tmp_path, records_of()).result_path.unlink()
    assert section(tmp_path) is None


def test_nothing_hidden_at_all_is_no_error(tmp_path):
    write_denoiser(tmp_path, [record(text, 0.0, skill=0.5, steps=0) for text in range(5)])
    assert rows_of(section(tmp_path)) == []
    assert drawn(tmp_path, tmp_path) == {}


def test_other_tasks_have_no_such_section_and_datasets_have_their_own(tmp_path):
    write_run(tmp_path / "other", answers(60))
    assert section(tmp_path / "other") is None
    for name in ("stories", "wikitext2"):
        target = {"_target_": f"rtx_lab.data.{name}.{name}"}
        write_denoiser(tmp_path / "both", records_of(), dataset=target)
    write_run(tmp_path / "both", answers(60))
    part = section(tmp_path / "both")
    assert [table.title for table in part.tables] == ["Denoising on stories", "Denoising on wikitext2"]
    assert not [row for row in section(tmp_path / "both", "Reasoning steps").tables[0].rows if "stories" in row[0]]


def test_half_is_where_fixed_steps_are_measured():
    from rtx_lab.tasks.passes import CURVE_RATIO

    assert HALF_PERCENT == 100 * CURVE_RATIO == 100 * HALF
