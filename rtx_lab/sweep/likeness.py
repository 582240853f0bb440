"""Which settled configurations are alike enough for one run to inherit from another."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rtx_lab.core.rundir import UNSIGNED, canonical

_NOT_COMPARED = UNSIGNED | {"model", "dataset", "seed", "phase", "init_from", "resume_from"}
_CUTS = frozenset({"budget.micro_batch", "budget.micro_tokens"})


def most_alike(
    keys: Collection[str], child: Mapping[str, Any], free: Iterable[str], configs: Sequence[Any]
) -> list[int]:
    """Indices of the configs with the child's model and dataset, apart from inherited `keys` and what is `free`.

    Of these the most alike are returned: equal in the free keys too, or else in budget, optimizer and machine. A run
    without a step (the untrained score of a batch study) counts only where there is no other.
    """
    inherited, loose = set(keys), {*keys, *free}
    if inherited & _CUTS:
        loose.add("budget.eval_batch")  # it follows the micro-batch
    same = [i for i, config in enumerate(configs) if _core(config, loose) == _core(child, loose)]
    same = [i for i in same if value_at(configs[i], "budget.steps") != 0] or same
    alike = [i for i in same if _rest(configs[i], loose) == _rest(child, loose)]
    exact = [i for i in alike if _core(configs[i], inherited) == _core(child, inherited)]
    return exact or alike or same


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, None where there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _core(config: Mapping[str, Any], ignored: set[str]) -> str:
    return _canonical_json({name: config.get(name) for name in ("model", "dataset") if name not in ignored}, ignored)


def _rest(config: Mapping[str, Any], ignored: set[str]) -> str:
    return _canonical_json({key: value for key, value in config.items() if key not in _NOT_COMPARED}, ignored)


def _canonical_json(tree: Mapping[str, Any], ignored: set[str]) -> str:
    kept = {
        name: {key: value for key, value in node.items() if f"{name}.{key}" not in ignored}
        if isinstance(node, Mapping)
        else node
        for name, node in tree.items()
        if name not in ignored
    }
    return json.dumps(canonical(kept), sort_keys=True)
