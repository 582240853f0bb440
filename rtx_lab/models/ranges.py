"""Range checks of a model's parameters: sentences, all of them collected before one error is raised."""

from __future__ import annotations

import difflib
import math

from rtx_lab.core.errors import UsageError


def positive_integer(key: str, value: object) -> list[str]:
    """Return what is wrong with a count or size, if anything."""
    return integer(key, value, least=1)


def integer(key: str, value: object, *, least: int) -> list[str]:
    """Return what is wrong with a whole number of at least `least` (0 or 1), if anything."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return []
    return [f"model.{key} must be {'a positive integer' if least else 'an integer of at least 0'}, got {value!r}"]


def number(key: str, value: object, *, least: float = 0.0, below: float = math.inf) -> list[str]:
    """Return what is wrong with a finite number in [least, below), if anything."""
    if isinstance(value, int | float) and not isinstance(value, bool) and least <= value < below:
        return []
    bound = f"at least {least:g}" if math.isinf(below) else f"at least {least:g} and below {below:g}"
    return [f"model.{key} must be a finite number of {bound}, got {value!r}"]


def positive_number(key: str, value: object) -> list[str]:
    """Return what is wrong with a finite number above 0, if anything."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return []
    return [f"model.{key} must be a positive finite number, got {value!r}"]


def share(key: str, value: object) -> list[str]:
    """Return what is wrong with a number in (0, 1], if anything."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        return []
    return [f"model.{key} must be above 0 and at most 1, got {value!r}"]


def one_of(key: str, value: object, options: tuple[str, ...]) -> list[str]:
    """Return what is wrong with a choice, if anything."""
    if value in options:
        return []
    near = difflib.get_close_matches(str(value), options, n=1)
    hint = f": did you mean {near[0]}?" if near else ""
    return [f"model.{key} must be one of {', '.join(options)}, got {value!r}{hint}"]


def at_most(key: str, value: object, limit_key: str, limit: object) -> list[str]:
    """Return the complaint that one integer exceeds another; silent where either is not an integer."""
    if isinstance(value, int) and isinstance(limit, int) and value > limit:
        return [f"model.{key} must be at most model.{limit_key} = {limit}, got {value}"]
    return []


def divides(key: str, value: object, whole_key: str, whole: object) -> list[str]:
    """Return the complaint that `value` does not divide `whole`; silent where either is no positive integer."""
    if isinstance(value, int) and isinstance(whole, int) and value > 0 and whole % value:
        return [f"model.{key} must divide model.{whole_key} = {whole}, got {value}"]
    return []


def boolean(key: str, value: object) -> list[str]:
    """Return what is wrong with a switch, if anything."""
    return [] if isinstance(value, bool) else [f"model.{key} must be true or false, got {value!r}"]


def block(d_model: object, n_heads: object, d_ff: object) -> list[str]:
    """Return what is wrong with the sizes of a transformer block; rotary and sinusoidal positions need even widths."""
    problems: list[str] = []
    for key, value in (("d_model", d_model), ("n_heads", n_heads), ("d_ff", d_ff)):
        problems += positive_integer(key, value)
    problems += divides("n_heads", n_heads, "d_model", d_model)
    if not problems and isinstance(d_model, int) and isinstance(n_heads, int) and d_model // n_heads % 2:
        width = d_model // n_heads
        problems.append(f"model.d_model / model.n_heads must be even, since positions turn pairs, got {width}")
    return problems


def refuse(problems: list[str]) -> None:
    """Raise one UsageError that names every problem, if there is any."""
    if problems:
        raise UsageError(*problems)
