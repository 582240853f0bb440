"""What a running job of a search does after each evaluation: report the monitored value, and end if it is hopeless.

The search (`rtx_lab.sweep.search`) leaves the trial's place in the run's plan.json; everything else is optuna's. A
storage that cannot be reached never fails a job: it goes on unpruned.
"""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtx_lab.core.errors import UsageError
from rtx_lab.core.parallel import Ranks
from rtx_lab.core.training import Ended, TrainState

log = logging.getLogger(__name__)
logging.getLogger("alembic").setLevel(logging.WARNING)  # lists its plugins when optuna is imported

PRUNERS = {
    "none": "NopPruner",
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "halving": "SuccessiveHalvingPruner",
}
"""What `hydra.sweeper.pruner` may name, and optuna's class for it."""

_PATIENCE_S = 10
"""How long a process waits for another that writes to the same sqlite file."""


def build_pruner(asked: str | Mapping[str, Any] | None) -> Any:
    """Return optuna's pruner for a name, or for a mapping with `name` and the arguments of optuna's class.

    Raises UsageError for a name, an argument or a value that optuna does not know.
    """
    import optuna

    settings = dict(asked) if isinstance(asked, Mapping) else {"name": asked or "none"}
    name = str(settings.pop("name", "median"))
    if name not in PRUNERS:
        raise UsageError(f"hydra.sweeper.pruner must be one of {', '.join(PRUNERS)}, got {name!r}")
    kind = getattr(optuna.pruners, PRUNERS[name])
    known = [key for key in inspect.signature(kind).parameters if key not in ("args", "kwargs")]
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise UsageError(f"hydra.sweeper.pruner: {name} has no {', '.join(unknown)}; known: {', '.join(known) or '-'}")
    try:
        return kind(**settings)
    except (TypeError, ValueError) as error:
        raise UsageError(f"hydra.sweeper.pruner: {str(error).splitlines()[0]}") from error


def open_storage(url: str) -> Any:
    """Open an optuna storage: `journal:///PATH` for a journal file, else a database URL as SQLAlchemy writes it.

    Raises UsageError where the installed optuna has no journal storage, and what optuna raises.
    """
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # ask and tell, in optuna 2.10
    if url.startswith("journal:///"):
        journal = getattr(optuna.storages, "journal", None)
        if journal is None:
            raise UsageError(
                f"optuna {optuna.__version__} has no journal storage: give hydra.sweeper.storage a .db file"
            )
        return journal.JournalStorage(journal.JournalFileBackend(url.removeprefix("journal://")))
    arguments = {"timeout": _PATIENCE_S} if url.startswith("sqlite:") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna 2.10 warns of SQLAlchemy's later versions
        return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": arguments})


def file_of(url: str) -> Path | None:
    """The file that a storage URL names; None for a database server."""
    kind, _, path = url.partition(":///")
    return Path(path) if kind in ("sqlite", "journal") and path else None


def watched(
    evaluate: Callable[[], dict[str, Any]],
    plan: Mapping[str, Any] | None,
    *,
    monitor: str,
    state: TrainState,
    last_step: int,
    ranks: Ranks,
    keep: Callable[[dict[str, Any]], None],
) -> Callable[[], dict[str, Any]]:
    """Return `evaluate` with the pruner's word after it, where `plan` (of plan.json) names a trial; else unchanged.

    The returned function raises Ended("pruned") on all ranks when the trial should stop before `last_step`; rank 0
    asks, and keeps the metrics of that last evaluation.
    """
    place = (plan or {}).get("trial")
    if not isinstance(place, Mapping):
        return evaluate
    trial = Trial(place)

    def look() -> dict[str, Any]:
        found = evaluate()
        reason = trial.report(state.step, found.get(monitor), monitor) if ranks.leads else None
        (pruned,) = ranks.from_lead([float(reason is not None and state.step < last_step)])
        if pruned:
            if ranks.leads:
                keep({"step": state.step, **found})
            raise Ended("pruned", reason or f"pruned at step {state.step}")
        return found

    return look


@dataclass(slots=True)
class Trial:
    """The trial that this run is, as plan.json names it: `storage`, `study`, `number`, `pruner`."""

    place: Mapping[str, Any]
    lost: bool = False
    """Whether the storage could not be reached; it is not asked again."""
    _opened: tuple[Any, Any, int] | None = None

    def report(self, step: int, value: Any, monitor: str) -> str | None:
        """Report `value` of `step`, once, and return why the trial should be pruned, or None."""
        if self.lost or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        try:
            return self._ask(step, float(value), monitor)
        except Exception as error:  # whatever a database, a file or a driver raises: the job is worth more
            self.lost = True
            first = (str(error).strip() or "no message").splitlines()[0]
            log.warning("this run goes on unpruned: its study cannot be used (%s: %s)", type(error).__name__, first)
            return None

    def _ask(self, step: int, value: float, monitor: str) -> str | None:
        study, storage, trial_id = self._opened = self._opened or self._open()
        if step not in storage.get_trial(trial_id).intermediate_values:
            storage.set_trial_intermediate_value(trial_id, step, value)
        if not study.pruner.prune(study, storage.get_trial(trial_id)):
            return None
        return f"pruned at step {step}: {monitor} {value:.4f} is behind other trials of {self.place['study']}"

    def _open(self) -> tuple[Any, Any, int]:
        import optuna

        url, name = str(self.place["storage"]), str(self.place["study"])
        file = file_of(url)
        if file is not None and not file.exists():  # opening it would make an empty one
            raise FileNotFoundError(f"{file} is gone")
        storage = open_storage(url)
        study = optuna.load_study(
            study_name=name, storage=storage, pruner=build_pruner(self.place.get("pruner", "median"))
        )
        number = int(self.place["number"])
        return (
            study,
            storage,
            storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(name), number),
        )
