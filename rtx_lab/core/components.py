"""Components: a config node that names a Python target of ours, and the ordinary call that it stands for.

Targets outside `rtx_lab.` are refused, so that a configuration file can never run foreign code.
"""

from __future__ import annotations

import collections.abc
import difflib
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from rtx_lab.core.errors import UsageError

_Target = TypeVar("_Target", bound=Callable[..., Any])
_DIRECTIVES = ("_target_", "_partial_")


def bind(node: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the node's target with the node's arguments bound; call it with the objects made at run time."""
    return partial(locate(str(node.get("_target_"))), **_arguments(node))


def locate(target: str) -> Callable[..., Any]:
    """Import `rtx_lab.package.module.name`. Raises UsageError for anything else."""
    if not target.startswith("rtx_lab."):
        raise UsageError(f"_target_ {target!r} is refused: only targets under rtx_lab. are run")
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"_target_ {target!r} does not exist ({error})") from error
    if not callable(found) or not str(getattr(found, "__module__", "")).startswith("rtx_lab."):
        raise UsageError(f"_target_ {target!r} is not a function or class of rtx_lab")
    return found


def task_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node of the task that a model's target is made for: its class attribute `task`."""
    try:
        target = getattr(locate(str(model.get("_target_"))), "task", "")
    except UsageError:  # the model's own check says what is wrong with it
        target = ""
    return {"_target_": target, "_partial_": True} if target else {}


def pairing_problems(task: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[str]:
    """Hold what a task says it needs (the annotation of its `dataset`) against what a dataset's target returns."""
    needed = _describe(locate(str(task["_target_"])))[1].get("dataset")
    given = _describe(locate(str(dataset["_target_"])))[1].get("return")
    if not inspect.isclass(needed) or not inspect.isclass(given) or issubclass(given, needed):
        return []
    name = str(dataset["_target_"]).rpartition(".")[2]
    return [
        f"dataset={name} holds {getattr(given, 'holds', 'other data')}, and this model learns from "
        f"{getattr(needed, 'holds', 'others')}: choose dataset={getattr(needed, 'example', '...')}, or another model"
    ]


def model_problems(task: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """Hold the model against the one that a task's target is about: its class attribute `model`, None for any."""
    needed = getattr(locate(str(task["_target_"])), "model", None)
    if needed is None or str(model.get("_target_")) == needed:
        return []
    name, given = (str(target).rpartition(".")[2] for target in (task["_target_"], model.get("_target_")))
    return [
        f"{name} is about a {needed.rpartition('.')[2]}, not a {given}: choose model=memgen_tiny, or another memgen"
    ]


def refused_settings(task: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Settings that a task's target cannot do: its class attribute `refuses`, {dotted key: what to do instead}."""
    problems = []
    for key, advice in getattr(locate(str(task["_target_"])), "refuses", {}).items():
        section, _, name = key.rpartition(".")
        value = (config.get(section) or {}).get(name)
        if value not in (None, False):
            spelled = str(value).lower() if isinstance(value, bool) else value
            problems.append(f"{key}={spelled} does not go with {str(task['_target_']).rpartition('.')[2]}: {advice}")
    return problems


def with_nulls(fill: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Callable[[_Target], _Target]:
    """Decorate a target: `fill` says, from its node, what nulls stand for where nothing else fills them."""

    def mark(target: _Target) -> _Target:
        target.__dict__["fill_nulls"] = fill
        return target

    return mark


def nulls_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """What the nulls of a node stand for by its target's own rule; nothing where it has none."""
    try:
        fill = getattr(locate(str(node.get("_target_"))), "fill_nulls", None)
    except UsageError:  # the component's own check says what is wrong with it
        fill = None
    found = fill(node) if fill is not None else {}
    return {key: value for key, value in found.items() if node.get(key, ...) is None}


def check_component(section: str, node: Mapping[str, Any]) -> list[str]:
    """Hold a node's keys and values against its target's signature; return what is wrong."""
    if "_target_" not in node:
        return [f"{section} names no _target_: choose an option of the group, as {section}=NAME"]
    try:
        target = locate(str(node["_target_"]))
    except UsageError as error:
        return [f"{section}: {problem}" for problem in error.problems]
    signature, hints = _describe(target)
    given = _arguments(node)
    problems = [
        f"{section}.{key} is missing: give it a value" for key in _needed(section, signature) if key not in given
    ]
    for key, value in given.items():
        if key not in signature.parameters:
            near = difflib.get_close_matches(key, signature.parameters, n=1)
            hint = f": did you mean `{section}.{near[0]}`?" if near else f"; known: {', '.join(signature.parameters)}"
            if f"{section}.{key}" == "dataset.target":
                hint = ": this data has no worked solutions to choose; dataset=gsm8k and dataset=arithmetic have them"
            problems.append(f"unknown key `{section}.{key}`{hint}")
        elif key in hints and not _matches(value, hints[key]):
            problems.append(f"{section}.{key} must be {_spell(hints[key])}, got {value!r}")
    return problems


@functools.cache
def _describe(target: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    """Signature and annotations of a target; a sweep asks for the same few hundreds of times."""
    return inspect.signature(target), typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)


def _needed(section: str, signature: inspect.Signature) -> list[str]:
    """The arguments that only a configuration can give; a task's come from the run."""
    named = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    return [] if section == "task" else named


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in node.items() if key not in _DIRECTIVES}


def _matches(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, option) for option in inner)
    if origin is typing.Literal:
        return value in inner
    if origin in (list, tuple) or (origin is not None and inspect.isclass(origin) and issubclass(list, origin)):
        elements = [option for option in inner if option is not Ellipsis]
        return isinstance(value, (list, tuple)) and all(any(_matches(v, e) for e in elements) for v in value)
    if origin is not None:
        return isinstance(value, origin)
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if inspect.isclass(hint) else True


def _spell(hint: Any) -> str:
    """`int | None` -> `an integer or null`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_spell(option) for option in inner)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(option) for option in inner)
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    if origin in (collections.abc.Sequence, list, tuple):
        return "a list"
    if origin in (collections.abc.Mapping, dict):
        return "a mapping, as {key: value}"
    return names.get(hint, str(hint))
