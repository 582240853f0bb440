"""A price as a row of a table: columns that a person reads, sizes in GB of 1e9 bytes."""

from __future__ import annotations

from rtx_lab.pricing.price import Price

COLUMNS = (
    *("parameters", "weights", "gradients", "optimizer", "activations", "logits", "peak", "fits"),
    *("hours", "kWh", "disk"),
)
SPLIT = frozenset({"weights", "gradients", "optimizer", "activations", "logits"})
"""Columns that a narrow table can do without."""
LESS_NEEDED = frozenset({"parameters", "kWh", "disk"})
"""Columns that go next."""
UNITS = "sizes in GB of 1e9 bytes; logits are part of the activations"


def cells(priced: Price) -> tuple[str, ...]:
    """The cells under COLUMNS; `-` where a GPU's rates are not known."""
    sizes = priced.weights, priced.gradients, priced.optimizer, priced.activations, priced.logits, priced.peak_bytes
    return (
        f"{priced.parameters:,}",
        *(short(size / 1e9, 3) for size in sizes),
        "yes" if priced.fits else "NO",
        _number(priced.hours),
        _number(priced.kwh),
        short(priced.disk_gb * 2**30 / 1e9),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else short(value)


def short(value: float, digits: int = 2) -> str:
    """So many significant digits, written out: 720 and not 7.2e+02."""
    return f"{float(f'{value:.{digits}g}'):,g}"
