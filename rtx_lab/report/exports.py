"""The tables of a report for other programs: CSV for the runs and comparisons, LaTeX for papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from rtx_lab.report.document import Table
from rtx_lab.report.findings import Comparison
from rtx_lab.report.groups import Group
from rtx_lab.report.runs import Run

_NUMBERS = (
    *("test/n", "test/accuracy", "test/accuracy_low", "test/accuracy_high", "test/loss", "test/f1"),
    *("test/exact_match", "test/avg_reasoning_steps", "test/spearman_steps_difficulty", "validation/accuracy"),
    *("validation/loss", "parameters", "time_s", "peak_memory_gb", "predicted_peak_memory_gb", "energy_kwh", "steps"),
)
"""Columns that results.csv always has, in this order; further test metrics follow by name."""

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip


def results_csv(runs: Iterable[Run], groups: Iterable[Group]) -> str:
    """Return one row for each run: name, status, group, seed, what varies, and its numbers; empty cells are unknown."""
    runs, group_of, varied = list(runs), {}, []
    for group in groups:
        varied += [key for key in group.factors if key not in varied]
        group_of |= {run.name: group for run in group.runs}
    keys = [*_NUMBERS, *sorted(_further(runs) - set(_NUMBERS))]
    rows = []
    for run in runs:
        group = group_of.get(run.name)
        factors = [group.factors.get(key) if group else None for key in varied]
        numbers = [run.metric(key) for key in keys]
        rows.append([run.name, run.phase, run.status, group.label if group else "", run.seed, *factors, *numbers])
    return _csv(["run", "phase", "status", "group", "seed", *varied, *keys], rows)


def comparisons_csv(comparisons: Iterable[Comparison]) -> str:
    """Return one row for each comparison in full precision, those included that could not be paired."""
    columns = ["factor", "metric", "right", "left", "difference", "low", "high", "p", "p_holm", "effect"]
    columns += ["detectable", "discordance", "items", "seeds_right", "seeds_left", "method", "reason"]
    rows = []
    for one in comparisons:
        head = [one.factor.key if one.factor else "", one.leaf, one.right.label, one.left.label]
        found = one.difference
        if found is None:
            rows.append([*head, *[None] * 12, one.reason])
            continue
        span = [found.difference, found.low, found.high, found.p, one.p, found.effect, one.detectable]
        seeds = [found.num_seeds[1], found.num_seeds[0]]
        rows.append([*head, *span, found.discordance, found.num_items, *seeds, found.method, one.reason])
    return _csv(columns, rows)


def to_latex(table: Table) -> str:
    r"""Return a table for `\input` with the rules of booktabs; what LaTeX would read as markup is escaped."""
    align = "".join("r" if column in table.numeric else "l" for column in table.columns)
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", _latex_row(table.columns), r"\midrule"]
    lines += [_latex_row(row) for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(["% needs \\usepackage{booktabs}", *lines]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    # A row that starts with [ or * would be read as an argument of the line break before it.
    guarded = ["{" + _latex(cell) + "}" if cell[:1] in ("[", "*") else _latex(cell) for cell in cells]
    return " & ".join(guarded) + r" \\"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _further(runs: Iterable[Run]) -> set[str]:
    keys = (key for run in runs for key in run.result.get("metrics", ()))
    return {key for key in keys if key.startswith("test/") and key.count("/") == 1}


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if cell is None else _cell(cell) for cell in row] for row in rows])
    return text.getvalue()


def _cell(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
