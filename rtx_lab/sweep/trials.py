"""What a person reads after a search: its best trials, how many ended how, and how to train the best again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rtx_lab.pruning import file_of
from rtx_lab.sweep.jobs import Job
from rtx_lab.sweep.plan import HOURS, print_costs, print_reasons
from rtx_lab.sweep.space import Space

NUM_SHOWN = 10
_PLACE = "run directory"
_WORDS = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished"}


def status_of(trial: Any) -> str:
    """How a trial ended, in the words of its job."""
    return str(trial.user_attrs.get("status") or _WORDS.get(trial.state.name, trial.state.name.lower()))


def print_trials(trials: Sequence[Any], direction: str, name: str, url: str, space: Space) -> None:
    """Print the best trials of a study, the number of each state, and the command that trains the best again."""
    from rtx_lab.sweep.tables import Table, fit, open_console, print_line

    console = open_console()
    counts = Counter(trial.state.name for trial in trials)
    states = ", ".join(f"{counts[state]} {word}" for state, word in _WORDS.items() if counts[state])
    best = best_first(trials, direction)
    keys = [dimension.key for dimension in space.dimensions]
    title = f"Search {name}: {len(trials)} trials ({states})"
    table = Table(title, ("trial", "objective", *keys, _PLACE), prose=frozenset({*keys, _PLACE}))
    for trial in best[:NUM_SHOWN]:
        values = [str(trial.params.get(key, "-")) for key in keys]
        place = str(trial.user_attrs.get("run", "-"))
        table.rows.append((str(trial.number + 1), f"{trial.value:.4f}", *values, place))
    shown = fit(console, table, [{_PLACE}])
    console.print(shown.drawn())
    if best:
        again = shlex.join(["python", "train.py", *space.point(best[0].params)])
        print_line(console, f"best: {again}")
    if best and _PLACE not in shown.columns:
        print_line(console, f"its run: {best[0].user_attrs.get('run', '-')}")
    print_line(console, _how_to_look(url))


def print_corners(corners: Sequence[Job], num_trials: int) -> None:
    """What trials at the corners of the space would cost, and from that what the search may cost."""
    from rtx_lab.pricing.rows import short
    from rtx_lab.sweep.tables import open_console, print_note

    print_costs(corners)
    print_reasons(corners)
    console, hours = open_console(), [job.price.hours for job in corners if job.price is not None]
    print_note(console, f"a search of {num_trials} trials between these corners of its space; nothing was written")
    if hours and None not in hours:
        ends = dict.fromkeys(short(num_trials * end) for end in (min(hours), max(hours)))
        print_note(
            console, f"{' to '.join(ends)} h if none is pruned and all are like the shortest or longest of these"
        )
        print_note(console, HOURS)


def _how_to_look(url: str) -> str:
    """optuna-dashboard needs optuna 3 or later, which reads an sqlite file of optuna 2 only once it is upgraded."""
    import optuna

    file = file_of(url)
    if file is None or not optuna.__version__.startswith("2."):
        return f"to look at it (trials from 0 on): optuna-dashboard {file if url.startswith('journal:') else url}"
    copy = file.with_name("dashboard.db")
    return (
        f"to look at it (trials from 0 on), where optuna-dashboard is installed: cp {file} {copy} && "
        f"optuna storage upgrade --storage sqlite:///{copy} && optuna-dashboard sqlite:///{copy}"
    )


def best_first(trials: Sequence[Any], direction: str) -> list[Any]:
    """The complete trials, best objective first; of equals the earlier."""
    sign = -1 if direction == "maximize" else 1
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return sorted(complete, key=lambda trial: (sign * trial.value, trial.number))
