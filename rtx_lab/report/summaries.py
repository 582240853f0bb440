"""What a report says of summarisation runs: ROUGE beside its control, how the texts were written, and some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from rtx_lab.report.choice import experiment_names, leaf_of
from rtx_lab.report.document import Section, Table
from rtx_lab.report.examples import examples_tables
from rtx_lab.report.findings import ALPHA
from rtx_lab.report.groups import Factor, Group
from rtx_lab.report.pairing import Answers, read_answers
from rtx_lab.report.rouge import KINDS, name_of, tokens_of
from rtx_lab.report.sections import MOST_ROWS, Figures
from rtx_lab.report.settings import value_text
from rtx_lab.report.wording import number, probability

if TYPE_CHECKING:
    from rtx_lab.scoring.comparisons import Difference

CONTROL = "lead3"
"""The control that a task records: the first three turns of the dialogue as its summary."""
CONTROL_NAME = "lead-3 (control: the first 3 turns)"

_WRITTEN = {
    "generation.num_beams": "beams",
    "generation.max_new_tokens": "new tokens at most",
    "generation.min_new_tokens": "new tokens at least",
    "generation.length_penalty": "length penalty",
    "generation.no_repeat_ngram_size": "no repeated n-gram of",
    "generation.early_stopping": "early stopping",
    "dataset.prefix": "prefix",
    "dataset.max_source_length": "source tokens at most",
    "dataset.max_target_length": "summary tokens at most",
}
"""Settings that decide how summaries are written, and their columns."""


def tokens_told(group: Group) -> list[str]:
    """Return the names of the tokens over which the finished runs of a group tell ROUGE; empty for other tasks."""
    head = "test/rouge_"
    keys = {key for run in group.done for key in run.result.get("metrics") or {} if key.startswith(head)}
    return sorted(key.removeprefix(head) for key in keys if not key.endswith(("_low", "_high")))


def watched_tokens(groups: Sequence[Group]) -> str:
    """Return the tokens of the ROUGE that most of these groups monitor, else the first that they tell."""
    told = sorted({tokens for group in groups for tokens in tokens_told(group)})
    watched = tokens_of(leaf_of(groups))
    return watched if watched in told else next(iter(told), "")


def find_experiments(groups: Sequence[Group], labels: Mapping[str, str]) -> list[Factor]:
    """Return the factor `experiment`: groups that summarise the same data, one for each phase, whatever they differ in.

    Where a phase holds several settings its own factors tell them apart, and there is no such factor.
    """
    families = []
    for dataset in sorted({group.dataset for group in groups}):
        members = tuple(group for group in groups if group.dataset == dataset and tokens_told(group))
        phases = [group.settings.get("phase") for group in members]
        if len(members) > 1 and len(set(phases)) == len(members):
            families.append(members)
    return [Factor("phase", "experiment", tuple(families), dict(labels))] if families else []


def summaries_section(groups: Sequence[Group], figures: Figures) -> Section | None:
    """Set the runs that summarise side by side, each score under the name of its tokens; None where there are none."""
    shown = [group for group in groups if tokens_told(group)]
    if not shown:
        return None
    tables, paragraphs = [], []
    for dataset in sorted({group.dataset for group in shown}):
        members = [group for group in shown if group.dataset == dataset]
        for tokens in sorted({tokens for group in members for tokens in tokens_told(group)}):
            counted = [group for group in members if tokens in tokens_told(group)]
            answers = read_answers(counted, _leaves(tokens))
            tables.append(_scores_table(dataset, tokens, counted, answers))
            if tokens == watched_tokens(members):
                paragraphs += _say_control(tokens, counted, answers)
    tables += [_written_table(shown), *examples_tables(shown)]
    if len({tokens for group in shown for tokens in tokens_told(group)}) > 1:
        paragraphs.append("Each kind of tokens has a table of its own: scores over different tokens do not compare.")
    return Section(title="Summaries", paragraphs=paragraphs, tables=tables, figures=list(figures.get("summaries", ())))


def control_span(group: Group, leaf: str, answers: Answers) -> tuple[float, tuple[float, float] | None] | None:
    """Return what the control reaches on a group's test items and its 95 % interval over them, None without it."""
    from rtx_lab.scoring.intervals import mean_interval

    for run in group.done:
        scores = answers[run.name].columns.get(f"{CONTROL}_{leaf}") if run.name in answers else None
        if scores:
            return fmean(scores), mean_interval(scores)
    mean = group.mean(f"test/{CONTROL}_{leaf}")
    return None if mean is None else (mean, None)


def _leaves(tokens: str) -> list[str]:
    kinds = [f"{kind}_{tokens}" for kind in (*KINDS, "rouge")]
    return [*kinds, *(f"{CONTROL}_{leaf}" for leaf in kinds)]


def _scores_table(dataset: str, tokens: str, groups: Sequence[Group], answers: Answers) -> Table:
    names, leaves, columns, rows = experiment_names(groups), _leaves(tokens)[:3], ["setting", "seeds", "items"], []
    for leaf in leaves:
        columns += [name_of(leaf), f"95 % interval of {name_of(leaf).partition(' ')[0]}"]
    for group in groups[:MOST_ROWS]:
        cells = [names[id(group)], str(len(group.done)), number(group.mean("test/n"), 0)]
        for leaf in leaves:
            cells += [number(group.mean(f"test/{leaf}")), _span(group.interval(f"test/{leaf}"))]
        rows.append([*cells, number(group.mean("test/length_ratio"), 2), number(group.mean("test/loss"))])
    rows += _control_rows(groups, leaves, answers)
    note = (
        f"F1 of n-grams (1, 2) and of the longest common subsequence (L), counted over {tokens.replace('_', ' ')}, "
        "0 to 1; papers print 100 times as much. Interval of the mean, 95 %: over the items or Student's t over the "
        "seeds, whichever is wider. Length ratio: characters of the summaries to those of the references. Loss in nats "
        "per token of the reference, each model in tokens of its own."
    )
    numeric = frozenset({"seeds", "items", *(name_of(leaf) for leaf in leaves), "length ratio", "loss"})
    return Table(title=f"Summaries of {dataset} (tokens: {tokens.replace('_', ' ')})",
                 columns=(*columns, "length ratio", "loss"), rows=rows, note=note, numeric=numeric)  # fmt: skip


def _control_rows(groups: Sequence[Group], leaves: Sequence[str], answers: Answers) -> list[list[str]]:
    """One row for each set of test items: the control depends on nothing else."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for group in groups:
        found = [control_span(group, leaf, answers) for leaf in leaves]
        if any(found):
            scores = [text for one in found for text in (number(one and one[0]), _span(one and one[1]))]
            rows.setdefault(tuple(scores), [CONTROL_NAME, "-", number(group.mean("test/n"), 0), *scores, "-", "-"])
    return list(rows.values())


def _span(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{number(interval[0])} to {number(interval[1])}"


def _say_control(tokens: str, groups: Sequence[Group], answers: Answers) -> list[str]:
    """One sentence for each setting: is it better than copying the first turns? Tested over the items."""
    from rtx_lab.scoring.comparisons import holm

    leaf, names = f"rouge_{tokens}", experiment_names(groups)
    found = [(group, one) for group in groups[:MOST_ROWS] if (one := _against_control(group, leaf, answers))]
    corrected = holm([one.p for _, one in found])
    sentences = []
    for (group, one), p in zip(found, corrected, strict=True):
        span = f"95 % interval {one.low:+.3f} to {one.high:+.3f}, corrected {probability(p)}"
        if p < ALPHA:
            word = "better" if one.difference > 0 else "worse"
            sentences.append(f"{names[id(group)]} is {word} than lead-3 by {abs(one.difference):.3f} {name_of(leaf)} "
                             f"({span}).")  # fmt: skip
        else:
            sentences.append(f"{names[id(group)]} and lead-3 cannot be told apart in {name_of(leaf)} ({span}).")
    if found:
        sentences.append(
            "Against lead-3: paired bootstrap over the items, with several seeds the larger p of that and of a t test "
            "over items and seeds; corrected by Holm's method over the settings named here."
        )
    return sentences


def _against_control(group: Group, leaf: str, answers: Answers) -> Difference | None:
    from rtx_lab.scoring.comparisons import compare_values

    sides = [answers[run.name] for run in group.done if run.name in answers]
    scores = [items.columns[leaf] for items in sides if leaf in items.columns]
    controls = [items.columns[f"{CONTROL}_{leaf}"] for items in sides if f"{CONTROL}_{leaf}" in items.columns]
    if not scores or not controls or len({items.ids for items in sides}) > 1 or len(sides[0].ids) < 2:
        return None
    return compare_values(controls[:1], scores)


def _written_table(groups: Sequence[Group]) -> Table:
    told = [key for key in _WRITTEN if any(group.settings.get(key) is not None for group in groups)]
    keys = [key for key in told if len({_setting(group.settings.get(key)) for group in groups}) > 1]
    alike = [f"{_WRITTEN[key]} {_setting(groups[0].settings.get(key))}" for key in told if key not in keys]
    names, rows = experiment_names(groups), []
    for group in groups[:MOST_ROWS]:
        cells = [names[id(group)], *(_setting(group.settings.get(key)) for key in keys)]
        minutes = group.mean("time_s")
        cells += [number(None if minutes is None else minutes / 60, 1), number(group.mean("peak_memory_gb"), 2)]
        rows.append(cells)
    columns = ("setting", *(_WRITTEN[key] for key in keys), "minutes", "peak GB")
    numeric = frozenset(columns[1:]) - {"prefix", "early stopping"}
    note = "Minutes and peak memory of a whole run, mean over seeds; a dash: the default, or not measured."
    note += f" Equal in all: {', '.join(alike)}." if alike else ""
    return Table(title="How the summaries were written", columns=columns, rows=rows, note=note, numeric=numeric)


def _setting(value: object) -> str:
    return "-" if value is None or value == "" else value_text(value)
