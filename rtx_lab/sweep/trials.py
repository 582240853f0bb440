"""What a person reads after a search: its best trials, how many ended how, and how to train the best again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rtx_lab.pruning import file_of
from rtx_lab.sweep.space import Space

NUM_SHOWN = 10
_WORDS = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished"}


def print_trials(trials: Sequence[Any], direction: str, name: str, url: str, space: Space) -> None:
    """Print the best trials of a study, the number of each state, and the command that trains the best again."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = console if console.is_terminal else Console(width=180)
    counts = Counter(trial.state.name for trial in trials)
    states = ", ".join(f"{counts[state]} {word}" for state, word in _WORDS.items() if counts[state])
    best = best_first(trials, direction)
    table = Table(title=f"Search {name}: {len(trials)} trials ({states})")
    keys = [dimension.key for dimension in space.dimensions]
    for column in ("trial", "objective", *keys, "run directory"):
        table.add_column(column, overflow="fold")
    for trial in best[:NUM_SHOWN]:
        values = [str(trial.params.get(key, "-")) for key in keys]
        table.add_row(str(trial.number), f"{trial.value:.4f}", *values, str(trial.user_attrs.get("run", "-")))
    console.print(table)
    if best:
        again = shlex.join(["python", "train.py", *space.point(best[0].params)])
        console.print(f"best: {again}", soft_wrap=True, markup=False, highlight=False)
    console.print(_how_to_look(url), soft_wrap=True, markup=False, highlight=False)


def _how_to_look(url: str) -> str:
    """optuna-dashboard needs optuna 3 or later, which reads an sqlite file of optuna 2 only once it is upgraded."""
    import optuna

    file = file_of(url)
    if file is None or not optuna.__version__.startswith("2."):
        return f"to look at it: optuna-dashboard {file if url.startswith('journal:') else url}"
    copy = file.with_name("dashboard.db")
    return (
        f"to look at it, where optuna-dashboard is installed: cp {file} {copy} && "
        f"optuna storage upgrade --storage sqlite:///{copy} && optuna-dashboard sqlite:///{copy}"
    )


def best_first(trials: Sequence[Any], direction: str) -> list[Any]:
    """The complete trials, best objective first; of equals the earlier."""
    sign = -1 if direction == "maximize" else 1
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return sorted(complete, key=lambda trial: (sign * trial.value, trial.number))
