"""A price as a row of a table: columns that a person reads, sizes in GB of 1e9 bytes."""

from __future__ import annotations

from rtx_lab.pricing.price import Price

COLUMNS = (
    *("parameters", "weights", "gradients", "optimizer", "activations", "logits", "peak", "fits"),
    *("hours", "kWh", "disk"),
)
SPLIT = frozenset({"weights", "gradients", "optimizer", "activations", "logits"})
"""Columns that a narrow table can do without."""
UNITS = "sizes in GB of 1e9 bytes; logits are part of the activations"


def cells(priced: Price) -> tuple[str, ...]:
    """The cells under COLUMNS; `-` where a GPU's rates are not known."""
    sizes = priced.weights, priced.gradients, priced.optimizer, priced.activations, priced.logits, priced.peak_bytes
    return (
        f"{priced.parameters:,}",
        *(f"{size / 1e9:.3g}" for size in sizes),
        "yes" if priced.fits else "NO",
        _number(priced.hours),
        _number(priced.kwh),
        f"{priced.disk_gb * 2**30 / 1e9:.2g}",
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
