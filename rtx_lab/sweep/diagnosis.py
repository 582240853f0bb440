"""Explain a command line that Hydra refused: every problem at once, each with the nearest right spelling."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rtx_lab.sweep.broken_config import explain_file, explain_first_file
from rtx_lab.sweep.door import COMPOSE_KEYWORDS
from rtx_lab.sweep.hydra_keys import unknown
from rtx_lab.sweep.synonyms import SYNONYMS

_LIKE_A_KEY = re.compile(r"[\w./]+")
_VALUE_FLAGS = {
    *("-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name"),
    *("-cd", "--config-dir", "-e"),
}


_EXTRAS = {
    **dict.fromkeys(("ray", "ray_aws"), "ray"),
    **dict.fromkeys(("submitit_local", "submitit_slurm"), "slurm"),
    "joblib": "dev",
}
"""Launchers of others, and which of our optional dependencies brings them."""


def diagnose(argv: list[str], error: Exception) -> list[str]:
    """Name what is wrong with each override of a command line; fall back to the first line of Hydra's own words.

    Where a file is at fault, it is named with its line instead.
    """
    folder = _config_dir(argv)
    problems: list[str] = []
    unreadable: dict[str, str] = {}
    overrides = list(_parse(argv, problems, unreadable))
    if not {"-m", "--multirun"} & set(argv):
        several = [str(override.input_line) for override in overrides if override.is_sweep_override()]
        problems += [f"`{line}` lists several values: add -m to run them all" for line in several]
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(folder), **COMPOSE_KEYWORDS):
        try:
            hydra = compose("config", return_hydra_config=True).hydra
        except Exception as broken:  # conf/ as it stands; Hydra, OmegaConf and PyYAML each have errors of their own
            return [explain_first_file(broken, folder)]
        loader = GlobalHydra.instance().config_loader()
        names = {*loader.list_groups(""), *(o.key_or_group for o in overrides if o.key_or_group.startswith("hydra/"))}
        groups = {name: loader.get_group_options(name) for name in names - {"hydra"}}
        good = [o for o in overrides if o.key_or_group in groups and not _check_group(o, groups, problems)]
        config = _compose([o.input_line or "" for o in good if not o.is_sweep_override()])
        leaves = list(_leaves(config)) + list(groups)
        problems += [_explain_unreadable(word, reason, leaves) for word, reason in unreadable.items()]
        problems += unknown(hydra, [override.key_or_group for override in overrides])
        for override in overrides:
            if override.key_or_group not in groups and not str(override.key_or_group).startswith("hydra"):
                problems += _check_key(override, config, leaves)
    return problems or [_of_another_sweeper(argv, error) or explain_file(error, folder) or _first_line(error)]


def _of_another_sweeper(argv: list[str], error: Exception) -> str | None:
    """A phase's grid has fields (`also`, `stages`, ...) that no other sweeper knows."""
    chosen = [word for word in argv if word.startswith("hydra/sweeper=")]
    if not chosen or "In 'phase/" not in str(error):
        return None
    return f"this phase needs the study sweeper: leave {chosen[0]} away, or sweep phase=main with values of your own"


def _config_dir(argv: list[str]) -> Path:
    """The `conf/` beside the script, or where --config-dir and --config-path point."""
    for flag, value in pairwise(argv):
        if flag in ("-cp", "--config-path"):
            return Path(value).resolve()
    return Path(sys.argv[0]).resolve().parent / "conf"


def _parse(argv: list[str], problems: list[str], unreadable: dict[str, str]) -> Iterator[Override]:
    parser = OverridesParser.create()
    takes_value = False
    for word in argv:
        if takes_value or word.startswith("-"):
            takes_value = word in _VALUE_FLAGS
            continue
        if "=" not in word.lstrip("+=") and not word.startswith("~"):
            problems.append(f"`{word}` is not an override: write key=value, as budget.epochs=1")
            continue
        try:
            yield parser.parse_override(word)
        except (HydraException, ValueError) as error:  # ValueError: a number of more digits than Python reads
            unreadable[word] = _first_line(error)


def _explain_unreadable(word: str, reason: str, leaves: list[str]) -> str:
    """Hydra's grammar refuses keys that begin with a digit; what is wrong with those is the key."""
    key = word.partition("=")[0].lstrip("+~")
    if _LIKE_A_KEY.fullmatch(key) and key not in leaves and (hint := suggest(key, leaves)).startswith(": did"):
        return f"unknown key `{key}`{hint}"
    return f"cannot read `{word}`: {reason}; quote values that hold spaces or signs"


def _check_group(override: Override, groups: dict[str, list[str]], problems: list[str]) -> bool:
    """Whether a group override names an option that does not exist; the problem is added."""
    group = str(override.key_or_group)
    if override.is_delete():
        problems.append(f"`{override.input_line}` removes what every run needs: choose an option, as {group}=NAME")
        return True
    values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [str(override.value())]
    wrong = [value for value in values if value not in groups[group]]
    for value in wrong:
        if group == "hydra/launcher" and value in _EXTRAS:
            problems.append(f'hydra/launcher={value} is not installed: pip install -e ".[{_EXTRAS[value]}]"')
            continue
        near = difflib.get_close_matches(value, groups[group], n=1, cutoff=0.5)
        hint = f"did you mean `{group}={near[0]}`?" if near else "choose one of " + ", ".join(groups[group])
        problems.append(f"{group} has no option `{value}`: {hint}")
    return bool(wrong)


def _compose(overrides: list[str]) -> DictConfig:
    try:
        return compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError):
        return compose("config")


def _check_key(override: Override, config: DictConfig, leaves: list[str]) -> list[str]:
    """A key that does not exist, or a value that its key refuses."""
    key, line = str(override.key_or_group), override.input_line or ""
    if key in SYNONYMS:
        return [f"unknown key `{key}`: here it is `{SYNONYMS[key]}`"]
    if key not in leaves:
        return [f"unknown key `{key}`{suggest(key, leaves)}"]
    if override.is_add() and not override.is_force_add():
        return [f"`{line}` adds a key that is there already: write {line.lstrip('+')}"]
    if override.is_sweep_override():
        return []
    try:
        compose("config", overrides=[line])
    except (HydraException, OmegaConfBaseException) as error:
        cause: Any = error.__cause__ or error
        return [f"{line}: {_first_line(cause)}"]
    return []


def suggest(key: str, leaves: list[str]) -> str:
    """`: did you mean ...?` for the leaf that is nearest as a whole, or whose last part is nearest."""
    leaves = [
        leaf for leaf in leaves if not leaf.endswith(("_target_", "_partial_")) and not leaf.startswith("labels.")
    ]
    last = key.rpartition(".")[2]
    if last in SYNONYMS:
        return f": did you mean `{SYNONYMS[last]}`?"
    by_last = [leaf for leaf in leaves if leaf.rpartition(".")[2] == last]
    near = difflib.get_close_matches(key, by_last or leaves, n=1, cutoff=0.0 if by_last else 0.6)
    if not near:
        tails = {leaf.rpartition(".")[2]: leaf for leaf in leaves}
        near = [tails[tail] for tail in difflib.get_close_matches(last, tails, n=1, cutoff=0.7)]
    return f": did you mean `{near[0]}`?" if near else "; python train.py --help lists all keys"


def _leaves(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in config:
        node = config._get_node(key)
        yield f"{prefix}{key}"
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _leaves(node, f"{prefix}{key}.")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
