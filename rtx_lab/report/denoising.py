"""What a report says of denoisers: what they restore at which cost, and what the gate follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rtx_lab.report.choice import short_labels
from rtx_lab.report.denoising_curves import HALF, hidden_percents, unigram
from rtx_lab.report.document import Figure, Section, Table
from rtx_lab.report.findings import ALPHA
from rtx_lab.report.groups import Group
from rtx_lab.report.sections import MOST_ROWS, Figures
from rtx_lab.report.wording import number, probability

_TOLD = (10, HALF, 90)
"""Percent hidden that the table tells; the figures hold all."""

_SLIGHT = 0.1
"""A correlation below this is called slight (Cohen 1988)."""

_RHO = (
    "rho is Spearman's correlation of the steps with the loss per token among texts with equally much hidden: 0 for a "
    "gate that only counts. A text with all its ratios is one draw. With several seeds it is their mean, and the "
    "largest p counts, corrected by Holm's method over the settings named here."
)
_PAIRED = (
    "Denoisers are compared text by text: a text with all its ratios is one item and weighs as much as tokens were "
    "hidden in it. Accuracy, a share here, takes the paired bootstrap as the loss does. Texts filled in after a fixed "
    "number of steps do not enter."
)


def denoising_section(groups: Sequence[Group], figures: Figures) -> Section | None:
    """Set the denoisers side by side and say what each gate follows, None where there is no denoiser."""
    shown = [group for group in groups if hidden_percents(group)]
    if not shown:
        return None
    datasets = sorted({group.dataset for group in shown})
    tables = []
    for dataset in datasets:
        title = f"Denoising on {dataset}" if len(datasets) > 1 else "Denoising"
        tables.append(_table(title, [group for group in shown if group.dataset == dataset]))
    drawn: list[Figure] = list(figures.get("denoising", ()))
    return Section(title="Denoising", paragraphs=[*say_gates(shown), _PAIRED], tables=tables, figures=drawn)


def say_gates(groups: Sequence[Group]) -> list[str]:
    """Return one sentence for each model with a gate: whether its steps follow difficulty beside the share hidden.

    A sentence on how that was measured follows; nothing is said where no model has a gate.
    """
    from rtx_lab.scoring.comparisons import holm

    gated = [group for group in groups if group.done and "model.gate_target" in group.settings]
    judged = [group for group in gated if group.values("test/gate_follows_difficulty_p")]
    raw = [max(group.values("test/gate_follows_difficulty_p")) for group in judged]
    p_of = {id(group): p for group, p in zip(judged, holm(raw), strict=True)}
    sentences = [_say_gate(group, p_of.get(id(group))) for group in gated[:MOST_ROWS]]
    return [*sentences, _RHO] if judged else sentences


def _say_gate(group: Group, p: float | None) -> str:
    curve = {percent: group.mean(f"test/mask/{percent}/avg_reasoning_steps") for percent in hidden_percents(group)}
    told = {percent: steps for percent, steps in curve.items() if steps is not None and percent > 0}
    first, last = min(told, default=0), max(told, default=0)
    rises = bool(told) and told[last] > told[first]
    steps = ""
    if first != last:
        steps = f" (mean steps {told[first]:.2f} at {first} % hidden, {told[last]:.2f} at {last} %)"
    head = f"{group.label}: the gate {'follows' if rises else 'does not follow'} how much is hidden{steps}"
    rhos = group.values("test/gate_follows_difficulty")
    if p is None or not rhos:
        return (
            f"{head}; whether it follows how hard a text is cannot be told: no two texts with equally much hidden took "
            "different steps, or too few were scored."
        )
    return f"{head}{_verdict(rhos, p, rises)}: {_rho_words(rhos, p)}."


def _verdict(rhos: Sequence[float], p: float, rises: bool) -> str:
    mean = sum(rhos) / len(rhos)
    if p >= ALPHA or min(rhos) < 0 < max(rhos):
        return f", {'not' if rises else 'nor'} how hard the text is as far as can be told"
    if mean < 0:
        return "; harder texts take fewer steps"
    also = "it also follows" if rises else "it follows"
    return f"; {also} difficulty{', though slightly' if mean < _SLIGHT else ''}: harder texts take more steps"


def _rho_words(rhos: Sequence[float], p: float) -> str:
    spread = f" ({len(rhos)} seeds, {min(rhos):+.3f} to {max(rhos):+.3f})" if len(rhos) > 1 else ""
    return f"rho = {sum(rhos) / len(rhos):+.3f}{spread}, {probability(p)}"


def _table(title: str, groups: Sequence[Group]) -> Table:
    labels, rows = short_labels(groups), []
    for percent in _told(groups):
        for group in groups:
            if percent in hidden_percents(group):
                rows.append([labels[id(group)], f"{percent} %", *_cells(group, f"test/mask/{percent}/")])
    columns = ("setting", "hidden", "accuracy", "95 % interval", "loss", "95 % interval of loss")
    columns += ("exact match", "BLEU", "steps", "MFLOPs")
    note = (
        "Mean over seeds, per hidden token; intervals over the texts or Student's t over the seeds, whichever is "
        "wider. Loss in nats per token. Exact match: texts restored in full. BLEU-4 of whole texts, the visible tokens "
        f"included. MFLOPs per text, forward.{_guess(unigram(groups))}"
    )
    cut = f" The first {MOST_ROWS} of {len(rows)} rows." if len(rows) > MOST_ROWS else ""
    numeric = frozenset({"hidden", "accuracy", "loss", "exact match", "BLEU", "steps", "MFLOPs"})
    return Table(title=title, columns=columns, rows=rows[:MOST_ROWS], note=note + cut, numeric=numeric)


def _told(groups: Sequence[Group]) -> list[int]:
    """The percents of the table: 10, 50 and 90 where any group has them, else the least, middle and most hidden."""
    known = sorted({percent for group in groups for percent in hidden_percents(group) if percent > 0})
    usual = [percent for percent in _TOLD if percent in known]
    return usual or sorted({known[0], known[len(known) // 2], known[-1]} if known else ())


def _cells(group: Group, prefix: str) -> list[str]:
    cells = []
    for leaf in ("accuracy", "loss"):
        low, high = group.interval(prefix + leaf) or (None, None)
        cells += [number(group.mean(prefix + leaf)), "-" if low is None else f"{number(low)} to {number(high)}"]
    cells += [number(group.mean(prefix + leaf)) for leaf in ("exact_match", "bleu")]
    flops = group.mean(f"{prefix}flops")
    return [*cells, number(group.mean(f"{prefix}avg_reasoning_steps"), 2), number(flops and flops / 1e6, 1)]


def _guess(shares: Mapping[int, float]) -> str:
    if not shares:
        return ""
    percent = HALF if HALF in shares else max(shares)
    return f" Always guessing the most frequent token is right on {shares[percent]:.3f} at {percent} % hidden."
