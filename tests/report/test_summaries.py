"""The section on summaries: scores under the name of their tokens, the control, settings, examples."""

import json
from statistics import fmean

import pytest
from written_runs import answers, write_run
from written_summaries import write_summariser

from rtx_lab.report import style
from rtx_lab.report.build import build_report, compose, read_study
from rtx_lab.report.choice import number_groups
from rtx_lab.report.rouge import is_rouge, name_of, tokens_of
from rtx_lab.report.summary_figures import draw_summaries

TITLES = ["Summaries of dialogues (tokens: characters)", "How the summaries were written"]


def section(root, title="Summaries"):
    parts = compose(read_study(root), "study", {}).sections
    return next((part for part in parts if part.title == title), None)


def rows_of(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def campaign(root):
    """Two experiments with two seeds each, in phases of their own, that differ in much at once."""
    for seed in (0, 1):
        write_summariser(root, 0.35, seed=seed)
        change = {"generation.num_beams": 8, "dataset.prefix": "요약: ", "optim.lr": 0.001, "model.architecture": "mt5"}
        write_summariser(root, 0.6, seed=seed, change=change, phase="mt5_xlsum_ultimate")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("campaign")
    campaign(root)
    return root


def test_names_tell_the_tokens():
    assert name_of("rouge1_whitespace") == "ROUGE-1 (whitespace)"
    assert name_of("rougeL_characters") == "ROUGE-L (characters)"
    assert name_of("rouge_morphemes") == "ROUGE (morphemes)"
    assert tokens_of("lead3_rouge2_characters") == "characters"
    assert [leaf for leaf in ("rouge_characters", "rouge1_x", "lead3_rouge1_x", "rouge_x_low", "loss", "roughly")
            if is_rouge(leaf)] == ["rouge_characters", "rouge1_x"]  # fmt: skip


def test_every_score_stands_under_the_name_of_its_tokens(study):
    table, written, *_ = section(study).tables
    assert [table.title, written.title] == TITLES
    assert [column for column in table.columns if column.startswith("ROUGE")] == [
        "ROUGE-1 (characters)", "ROUGE-2 (characters)", "ROUGE-L (characters)",
    ]  # fmt: skip
    rows = {row["setting"]: row for row in rows_of(table)}
    assert set(rows) == {"baseline_kobart", "mt5_xlsum_ultimate", "lead-3 (control: the first 3 turns)"}
    (group,) = (group for group in read_study(study).groups if group.settings["phase"] == "baseline_kobart")
    low, high = group.interval("test/rouge1_characters")
    row = rows["baseline_kobart"]
    assert row["ROUGE-1 (characters)"] == f"{group.mean('test/rouge1_characters'):.3f}"
    assert row["95 % interval of ROUGE-1"] == f"{low:.3f} to {high:.3f}"
    assert 0 <= low < high <= 1
    assert row["items"] == "60"


def test_the_control_is_scored_over_the_same_items(study):
    table = section(study).tables[0]
    (control,) = (row for row in rows_of(table) if row["setting"].startswith("lead-3"))
    run = read_study(study).runs[0]
    scores = [record["lead3_rouge1_characters"] for record in run.predictions().values()]
    assert control["ROUGE-1 (characters)"] == f"{fmean(scores):.3f}"
    assert control["95 % interval of ROUGE-1"].count(" to ") == 1


def test_each_setting_is_held_against_the_control(tmp_path):
    write_summariser(tmp_path, 0.6)
    (said, method) = section(tmp_path).paragraphs
    assert "is better than lead-3 by 0.3" in said
    assert "ROUGE (characters)" in said
    assert "Holm" in method
    write_summariser(tmp_path / "poor", 0.05)
    assert "is worse than lead-3" in section(tmp_path / "poor").paragraphs[0]


def test_experiments_that_differ_in_much_are_compared_over_the_same_items(study):
    found = [one for one in read_study(study).comparisons if one.difference is not None]
    assert [(one.factor.key, one.leaf, one.difference.num_items) for one in found] == [
        ("phase", "rouge_characters", 60)
    ]
    assert found[0].shown
    sentence = next(line for line in compose(read_study(study), "x", {}).headlines if line.startswith("experiment"))
    assert "experiment: ROUGE (characters) with mt5_xlsum_ultimate is" in sentence
    assert "higher than with baseline_kobart" in sentence


def test_settings_of_a_phase_are_told_apart_by_their_own_factors(tmp_path):
    for beams in (1, 4):
        write_summariser(tmp_path, 0.4, change={"generation.num_beams": beams})
    factors = [factor.key for factor in read_study(tmp_path).factors]
    assert factors == ["generation.num_beams"]


def test_how_it_was_written_is_told_with_time_and_memory(study):
    rows = {row["setting"]: row for row in rows_of(section(study).tables[1])}
    assert (rows["mt5_xlsum_ultimate"]["beams"], rows["baseline_kobart"]["beams"]) == ("8", "4")
    assert (rows["mt5_xlsum_ultimate"]["prefix"], rows["baseline_kobart"]["prefix"]) == ("요약: ", "-")
    assert (rows["baseline_kobart"]["minutes"], rows["baseline_kobart"]["peak GB"]) == ("15.0", "7.50")


def test_examples_stand_at_fixed_ranks_with_every_setting(study):
    examples = section(study).tables[2:]
    assert len(examples) == 3
    ranks = {}
    predictions = {run.phase: run.predictions() for run in read_study(study).runs if run.seed == 0}
    items = list(predictions["baseline_kobart"])
    means = {item: fmean(one[item]["rouge_characters"] for one in predictions.values()) for item in items}
    for place, item in enumerate(sorted(items, key=lambda item: (means[item], item))):
        ranks[item] = place
    shown = [table.title.split()[1] for table in examples]
    assert [ranks[item] for item in shown] == [6, 30, 53]
    for table, item in zip(examples, shown, strict=True):
        rows = {row["by"]: row for row in rows_of(table)}
        assert list(rows) == ["reference", "baseline_kobart", "mt5_xlsum_ultimate"]
        assert rows["reference"]["summary"] == predictions["baseline_kobart"][item]["gold"]
        score = predictions["mt5_xlsum_ultimate"][item]["rouge_characters"]
        assert rows["mt5_xlsum_ultimate"]["ROUGE (characters)"] == f"{score:.3f}"


def test_scores_over_other_tokens_stand_apart_and_are_not_compared(tmp_path):
    write_summariser(tmp_path, 0.4)
    write_summariser(tmp_path, 0.4, tokens="whitespace", phase="other")
    part = section(tmp_path)
    assert [table.title for table in part.tables[:2]] == [
        "Summaries of dialogues (tokens: characters)", "Summaries of dialogues (tokens: whitespace)",
    ]  # fmt: skip
    assert any("scores over different tokens do not compare" in line for line in part.paragraphs)
    assert all(one.difference is None for one in read_study(tmp_path).comparisons)


def test_missing_pieces_give_no_error(tmp_path):
    whole = write_summariser(tmp_path, 0.4)
    bare = write_summariser(tmp_path, 0.4, seed=1)
    result = json.loads(bare.result_path.read_text())
    result["metrics"] = dict.fromkeys(result["metrics"])
    bare.result_path.write_text(json.dumps(result))
    write_summariser(tmp_path, 0.4, seed=2).predictions_path.unlink()
    write_summariser(tmp_path, 0.4, seed=3).result_path.unlink()
    text = (whole.path / "predictions.jsonl").read_text().splitlines()
    text[0] = json.dumps({"id": "test_0", "row": 0, "prediction": "no reference"})
    whole.predictions_path.write_text("\n".join(text))
    assert section(tmp_path).tables[0].rows
    assert section(tmp_path, "What was run")


def test_other_tasks_have_no_such_section(tmp_path):
    write_run(tmp_path, answers(60))
    assert section(tmp_path) is None


def test_the_figure_shows_every_setting_and_the_control(study, tmp_path):
    groups, drawn = read_study(study).groups, []
    for name in ("one", "two"):
        with style.drawing():
            (figure,) = draw_summaries(groups, number_groups(groups), tmp_path / name, "")
        drawn.append((tmp_path / name / "figures" / "rouge_characters.png").read_bytes())
    assert figure.name == "rouge_characters"
    assert drawn[0] == drawn[1]
    for part in ("baseline_kobart 0.", "mt5_xlsum_ultimate 0.", "lead-3"):
        assert part in figure.alt


def test_the_report_holds_the_section_and_names_the_tokens_everywhere(study):
    titles = [part.title for part in build_report(study).sections]
    assert titles[:4] == ["What was run", "Results", "Summaries", "Comparisons"]
    header = (study / "report" / "report.md").read_text().split("| setting ")[1].splitlines()[0]
    assert "test ROUGE (characters)" in header
    assert "steps" not in header
