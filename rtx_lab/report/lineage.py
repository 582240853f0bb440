"""Where the weights of a run come from: phases instead of folders, so that seeds of one chain count as replicates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rtx_lab.report.groups import identity
from rtx_lab.report.runs import Run, load_runs
from rtx_lab.report.settings import flatten

ARROW = " > "
"""Between the phases of a chain: `tiny_lm > weaver_sft`."""

_DEEPEST = 32
"""Parents of parents that are followed: a config that names itself ends somewhere."""


def join_seeds(runs: Iterable[Run]) -> list[Run]:
    """Return the runs, their `init_from` replaced by the chain of phases that trained those weights.

    Two parents that differ in their seed alone become one name. Of a phase with several settings each gets a number,
    in order of its values. A parent that is neither among the runs nor beside them stays the path it was.
    """
    runs = list(runs)
    known = {run.name: run for run in runs}
    chains = {run.name: _ancestors(run, known) for run in runs}
    settings: dict[str, dict[str, None]] = {}
    for run in sorted((one for chain in chains.values() for one in chain or ()), key=_key):
        settings.setdefault(run.phase, {})[_key(run)] = None

    def named(run: Run) -> str:
        places = list(settings[run.phase])
        return run.phase if len(places) == 1 else f"{run.phase} {places.index(_key(run)) + 1}"

    joined = []
    for run in runs:
        chain = chains[run.name]
        told = {"init_from": ARROW.join(named(one) for one in chain)} if chain else {}
        joined.append(replace(run, config=run.config | told))
    return joined


def _ancestors(run: Run, known: dict[str, Run]) -> list[Run] | None:
    """The runs whose weights went into this one, the first trained first; None where one cannot be found."""
    chain: list[Run] = []
    while run.config.get("init_from"):
        parent = _parent(run, known)
        if parent is None or not parent.config or len(chain) == _DEEPEST:
            return None
        chain.insert(0, parent)
        run = parent
    return chain


def _parent(run: Run, known: dict[str, Run]) -> Run | None:
    """The weights are a run, its checkpoint folder, or one checkpoint in that."""
    place = Path(str(run.config["init_from"]))
    for folder in (place, place.parent, place.parent.parent):
        name = f"{folder.parent.name}/{folder.name}"
        if name not in known and folder.name and (run.path.parent.parent / name / "config.yaml").is_file():
            known |= {one.name: one for one in load_runs(run.path.parent.parent / name) if one.name == name}
        if name in known:
            return known[name]
    return None


def _key(run: Run) -> str:
    flat = flatten(run.config)
    return identity({key: value for key, value in flat.items() if key != "init_from"})
