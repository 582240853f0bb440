"""The sections of a report: what was run, what it reached, what may be concluded, what it cost, how it was computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from rtx_lab.report.choice import short_labels
from rtx_lab.report.denoising_curves import hidden_percents
from rtx_lab.report.document import Figure, Section, Table
from rtx_lab.report.expectations import Verdict
from rtx_lab.report.findings import Comparison, best_by_validation
from rtx_lab.report.groups import Group
from rtx_lab.report.outcomes import Outcome, count_statuses, statuses_of
from rtx_lab.report.pairing import lower_is_better
from rtx_lab.report.rouge import is_rouge, name_of
from rtx_lab.report.runs import Run, is_number
from rtx_lab.report.wording import limit_text, number, probability, words

MOST_ROWS = 60
"""A table in the report is cut here; the CSV files hold all rows."""

Figures = Mapping[str, Sequence[Figure]]


def jobs_section(runs: Sequence[Run], missing: Sequence[Outcome], groups: Sequence[Group]) -> Section:
    """Say how many jobs of each phase ended how."""
    counts = count_statuses(runs, missing)
    statuses = statuses_of(counts)
    rows = [[phase, *(str(counter[status]) for status in statuses)] for phase, counter in counts.items()]
    if len(rows) > 1:
        rows.append(["all", *(str(sum(counter[status] for counter in counts.values())) for status in statuses)])
    seeds = sorted({len(group.done) for group in groups if group.done})
    text = f"{_plural(len(groups), 'setting')}, {_span(seeds)} finished {'seed' if seeds == [1] else 'seeds'} each."
    if seeds[:1] == [1]:
        text += " Where a setting has one seed, a finding speaks of the trained model and not of the setting."
    table = Table(title="Jobs", columns=("phase", *statuses), rows=rows, numeric=frozenset(statuses))
    return Section(title="What was run", paragraphs=[text], tables=[table])


def results_section(groups: Sequence[Group], leaf: str, figures: Figures) -> Section:
    """Set the settings of each dataset side by side; what is best by validation is marked."""
    tables = []
    datasets = sorted({group.dataset for group in groups if group.done})
    for dataset in datasets:
        shown = [group for group in groups if group.dataset == dataset and group.done]
        title = f"Results on {dataset}" if len(datasets) > 1 else "Results"
        tables.append(_results_table(title, shown, leaf))
    ranks = _rank_table(groups, leaf)
    return Section(title="Results", tables=[*tables, *ranks], figures=list(figures.get("learning", ())))


def _results_table(title: str, groups: Sequence[Group], leaf: str) -> Table:
    best = best_by_validation(groups, leaf)
    score = f"test {name_of(leaf) if is_rouge(leaf) else leaf}"
    numeric = (score, "validation", "steps", "items", "seeds")
    rows, labels = [], short_labels(groups)
    for group in groups[:MOST_ROWS]:
        low, high = group.interval(f"test/{leaf}") or (None, None)
        label = labels[id(group)]
        cells = [f"{label} (best by validation)" if group is best else label, str(len(group.done))]
        cells += [number(group.mean("test/n"), 0), number(group.mean(f"test/{leaf}"))]
        cells += [f"{number(low)} to {number(high)}" if low is not None else "-"]
        cells += [number(group.mean(f"validation/{leaf}")), number(group.mean("test/avg_reasoning_steps"), 2)]
        rows.append(cells)
    over_items = "Wilson over the items" if leaf == "accuracy" else "over the items as the runs tell it"
    note = f"Interval of the mean, 95 %: {over_items} or Student's t over the seeds, whichever is wider."
    columns = ("setting", "seeds", "items", score, "95 % interval", "validation", "steps")
    if all(row[-1] == "-" for row in rows):  # nothing here takes reasoning steps
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table(title=title, columns=columns, rows=rows, note=note + _cut(groups), numeric=frozenset(numeric))


def _rank_table(groups: Sequence[Group], leaf: str) -> list[Table]:
    from rtx_lab.scoring.comparisons import mean_ranks

    sign = -1.0 if lower_is_better(leaf) else 1.0
    scores: dict[str, dict[str, float]] = {}
    for group in groups:
        mean = group.mean(f"validation/{leaf}")
        name = ", ".join(part for part in group.label.split(", ") if part != group.dataset)
        if mean is not None:
            scores.setdefault(name, {})[group.dataset] = sign * mean
    most = max((len(row) for row in scores.values()), default=0)
    ranks = mean_ranks({name: row for name, row in scores.items() if len(row) == most}) if most > 1 else {}
    if len(ranks) < 2:
        return []
    rows = [[name, f"{rank:.2f}"] for name, rank in sorted(ranks.items(), key=lambda item: (item[1], item[0]))]
    note = f"Over {most} datasets, by validation; 1 is best."
    return [Table(title="Mean rank", columns=("setting", "mean rank"), rows=rows[:MOST_ROWS], note=note,
                  numeric=frozenset({"mean rank"}))]  # fmt: skip


def comparisons_section(comparisons: Sequence[Comparison], sentences: Sequence[str]) -> Section:
    """List the comparisons, smallest p first, after the sentences that no headline holds; say what was not paired."""
    judged = [one for one in comparisons if one.difference is not None]
    rows = [_comparison_row(one) for one in sorted(judged, key=lambda one: one.p)]
    numeric = frozenset({"difference", "p (Holm)", "effect", "detectable"})
    columns = ("factor", "metric", "setting", "against", "difference", "95 % interval", "p (Holm)", "effect")
    note = (
        "Difference: setting minus the one it is held against. Effect: Cohen's h for accuracy, else the paired "
        "standardised difference. Detectable: the smallest true difference found with power .8 after correction."
    )
    tables = []
    if rows:
        tables = [Table(title="Comparisons", columns=(*columns, "detectable"), rows=rows[:MOST_ROWS],
                        note=note + _cut(rows), numeric=numeric)]  # fmt: skip
    reasons = sorted({one.reason for one in comparisons if one.difference is None})
    paragraphs = list(sentences[:MOST_ROWS])
    if not rows:
        paragraphs.append("No two settings could be compared over the same items.")
    paragraphs += [f"Not compared: {reason}." for reason in reasons[:10]]
    return Section(title="Comparisons", paragraphs=paragraphs, tables=tables)


def _comparison_row(one: Comparison) -> list[str]:
    found = one.difference
    if found is None:
        return []
    factor = one.factor.title if one.factor else "expected"
    span = f"{found.low:+.3f} to {found.high:+.3f}"
    p = probability(one.p).removeprefix("p = ").removeprefix("p ")
    cells = [factor, words(one.leaf), one.right.label, one.left.label, f"{found.difference:+.3f}", span, p]
    return [*cells, f"{found.effect:+.2f}", limit_text(one.leaf, one.detectable)]


def expectations_section(verdicts: Sequence[Verdict]) -> Section:
    """Hold what was claimed beforehand against what was measured."""
    columns = ("claim", "verdict", "measured", "source")
    rows = [[one.claim, one.verdict, one.evidence, one.source or "-"] for one in verdicts]
    if not any(one.source for one in verdicts):
        columns, rows = columns[:3], [row[:3] for row in rows]
    return Section(title="Expectations", tables=[Table(title="Expectations", columns=columns, rows=rows)])


def steps_section(groups: Sequence[Group], figures: Figures) -> Section | None:
    """Set reasoning steps against the difficulty of the items."""
    told = [group for group in groups if not hidden_percents(group)]  # denoisers have a section of their own
    shown = [group for group in told if group.mean("test/avg_reasoning_steps") is not None]
    drawn = list(figures.get("steps", ()))
    if not shown:
        return Section(title="Reasoning steps", figures=drawn) if drawn else None
    rows = []
    for group in shown[:MOST_ROWS]:
        ended = group.mean("test/early_termination_rate")
        cells = [group.label, number(group.mean("test/avg_reasoning_steps"), 2), _percent(ended)]
        rows.append([*cells, number(group.mean("test/spearman_steps_difficulty"), 2)])
    columns = ("setting", "mean steps", "ended early", "rank correlation with difficulty")
    note = "Spearman's rho between an item's steps and its difficulty, mean over seeds."
    table = Table(title="Reasoning steps", columns=columns, rows=rows, note=note + _cut(shown),
                  numeric=frozenset(columns[1:]))  # fmt: skip
    return Section(title="Reasoning steps", tables=[table], figures=drawn)


def connections_section(groups: Sequence[Group], figures: Figures) -> Section | None:
    """Describe the connections between slots by scale-free numbers."""
    keys = {
        "sparsity": "test/connection_sparsity",
        "effective rank": "test/effective_rank",
        "slot usage entropy": "test/slot_usage_entropy",
        "slot specialisation": "test/slot_specialization",
    }
    shown = [group for group in groups if any(group.mean(key) is not None for key in keys.values())]
    drawn = list(figures.get("connections", ()))
    if not shown and not drawn:
        return None
    rows = [[group.label, *(number(group.mean(key)) for key in keys.values())] for group in shown[:MOST_ROWS]]
    note = "Hoyer sparsity: 0 all connections alike, 1 a single one. Usage entropy: 1 all slots used alike."
    table = Table(title="Connections", columns=("setting", *keys), rows=rows, note=note + _cut(shown),
                  numeric=frozenset(keys))  # fmt: skip
    return Section(title="Connections", tables=[table] if rows else [], figures=drawn)


def cost_section(groups: Sequence[Group], figures: Figures) -> Section:
    """Set parameters, time, energy and memory side by side, predicted beside measured."""
    shown = [group for group in groups if group.done]
    rows = []
    for group in shown[:MOST_ROWS]:
        parameters, time_s = group.mean("parameters"), group.mean("time_s")
        speeds = [speed for run in group.done if (speed := _speed(run)) is not None]
        cells = [group.label, "-" if parameters is None else f"{parameters / 1e6:.2f}", _hours(time_s)]
        cells += [f"{median(speeds):,.0f}" if speeds else "-", number(group.mean("predicted_peak_memory_gb"), 2)]
        rows.append([*cells, number(group.mean("peak_memory_gb"), 2), number(group.mean("energy_kwh"))])
    columns = ("setting", "parameters (M)", "hours", "tokens/s", "peak GB, predicted", "peak GB, measured", "kWh")
    total = sum(run.metric("time_s") or 0.0 for group in groups for run in group.runs)
    note = f"Means over seeds. All runs together: {_hours(total)} h."
    table = Table(title="Cost", columns=columns, rows=rows, note=note + _cut(shown), numeric=frozenset(columns[1:]))
    return Section(title="Cost", tables=[table], figures=list(figures.get("cost", ())))


def failures_section(missing: Sequence[Outcome], cut: Sequence[Outcome]) -> Section | None:
    """Name every job without a result, and every finished one whose record is not whole."""
    listed = [*missing, *cut]
    if not listed:
        return None
    rows = [[one.job, one.status, one.reason] for one in listed[: 2 * MOST_ROWS]]
    more = len(listed) - len(rows)
    table = Table(title="Jobs without a whole record", columns=("job", "status", "reason"), rows=rows,
                  note=f"{more} more are not shown; `python -m rtx_lab status` lists all." if more else "")  # fmt: skip
    return Section(title="Jobs without a result", tables=[table])


def method_section(num_comparisons: int) -> Section:
    """Say in a few lines how the numbers came about."""
    paragraphs = [
        "Selection uses validation; every number called test was measured once on rows that selected nothing.",
        "Runs that differ in their seed alone are one setting. Two settings are compared over the same test items.",
        "Accuracy: McNemar's exact test, pooled over seeds with the item as the unit (a sign-flip test of the "
        "differences per item). Other metrics: paired bootstrap over items, 4000 resamples, fixed seed.",
        "With several seeds a t test with the variance over items and over seeds is made as well and the larger p "
        "counts, so that a difference that a few seeds made by chance is not called real.",
        f"All {num_comparisons} tests of this report are corrected together by Holm's method at .05.",
    ]
    return Section(title="How this was computed", paragraphs=paragraphs)


def _speed(run: Run) -> float | None:
    speeds = [float(line["tokens_per_s"]) for line in run.curve() if is_number(line.get("tokens_per_s"))]
    return median(speeds) if speeds else None


def _hours(time_s: float | None) -> str:
    if time_s is None:
        return "-"
    return f"{time_s / 3600:.2f}" if time_s >= 360 else f"{time_s / 3600:.4f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _span(values: Sequence[int]) -> str:
    if not values:
        return "no"
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _cut(rows: Sequence[object]) -> str:
    return f" The first {MOST_ROWS} of {len(rows)}; the CSV files hold all." if len(rows) > MOST_ROWS else ""
