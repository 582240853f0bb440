"""A search in place of a grid: optuna proposes a point, an ordinary job trains it, its objective is told back.

`n_trials` is a total: the same command after any interruption continues to it. A trial is written to the study with all
its values at once, so a killed search leaves trials that are known whole: they go on under their own number, from their
jobs' checkpoints. What is proposed depends on the sampler's seed, the trial's number and the trials before it alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rtx_lab.core.components import locate
from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.core.rundir import STATUSES, RunDir, signature, write_json
from rtx_lab.pruning import build_pruner, file_of, open_storage
from rtx_lab.sweep.board import Tally
from rtx_lab.sweep.door import EXIT_PARTLY_FAILED
from rtx_lab.sweep.jobs import Job
from rtx_lab.sweep.outcomes import outcome
from rtx_lab.sweep.session import Session
from rtx_lab.sweep.space import Space, read_space
from rtx_lab.sweep.trials import print_corners, print_trials, status_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Search:
    """What a phase or the command line says of a search, as fields of `hydra.sweeper`."""

    n_trials: int
    params: Mapping[str, Any]
    storage: str | None = None
    study_name: str | None = None
    pruner: Any = "median"
    sampler_seed: int = 0
    n_jobs: int = 1
    max_failures: int | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Search:
        """Take the fields that concern a search. Raises UsageError for values out of range."""
        asked = cls(**{f.name: settings[f.name] for f in fields(cls) if f.name in settings})
        least = {"n_trials": 1, "n_jobs": 1, "sampler_seed": 0, "max_failures": 0}
        wrong = [
            f"hydra.sweeper.{name} must be a whole number from {low} on, got {value!r}"
            for name, low in least.items()
            if (value := getattr(asked, name)) is not None and (type(value) is not int or value < low)
        ]
        if wrong:
            raise UsageError(*wrong)
        build_pruner(asked.pruner)
        return asked


@dataclass(frozen=True, slots=True)
class Study:
    """Where the trials of a search stand: an optuna storage, and the study's name in it."""

    url: str
    name: str
    direction: str
    storage: Any

    @property
    def now(self) -> Any:
        """The study as it is on disk now: what jobs reported stands in no cache of ours."""
        import optuna

        return optuna.load_study(study_name=self.name, storage=self.storage)

    def trials(self) -> list[Any]:
        """All trials in order, but for those that someone queued and nobody started."""
        return [trial for trial in self.now.get_trials(deepcopy=False) if trial.state.name != "WAITING"]

    def id_of(self, number: int) -> int:
        """The storage's own number of a trial."""
        return self.storage.get_trial_id_from_study_id_trial_number(
            self.storage.get_study_id_from_name(self.name), number
        )


def search(settings: Mapping[str, Any], session: Session, arguments: Sequence[str]) -> int:
    """Search until the study holds `n_trials` trials, print the best, and return the exit code.

    0: every trial ended well; 4: some failed; 130 or 143: stopped by a signal. `plan=true` prints the corners of the
    space and ends with SystemExit. Raises UsageError for settings, a space
    or a configuration that are wrong, before anything is written; RunError where the study cannot be opened.
    """
    asked = Search.of(settings)
    space = read_space(asked.params, arguments, session.context)
    corners = session.plan(space.corners())
    if corners[0].settled.run.plan:
        print_corners(corners, asked.n_trials)
        raise SystemExit(0)
    refused = [job.refusal.reason for job in corners if job.refusal is not None]
    if len(refused) == len(corners):
        raise UsageError(*dict.fromkeys(refused))
    for reason in dict.fromkeys(refused):
        log.warning("a part of the search space will be refused: %s", reason)
    folder = session.root / corners[0].settled.run.phase
    url = place_of(asked.storage, folder)
    identity = _identity(corners[0], space)
    folder.mkdir(parents=True, exist_ok=True)
    with RunDir(folder).lock():
        name = asked.study_name or f"{folder.name}-{identity[:6]}"
        study = _open_study(url, name, _direction(corners[0]), identity)
        code = _continue(asked, space, session, study, folder)
    print_trials(study.trials(), study.direction, name, url, space)
    return code


def place_of(asked: str | None, folder: Path) -> str:
    """The storage's URL for a file name that ends in .db (sqlite) or in .log or .journal (journal), or for a URL.

    Files stand in the phase's folder unless their path is absolute. Raises UsageError for other names.
    """
    text = asked or "study.db"
    for kind, endings in (("sqlite", (".db",)), ("journal", (".log", ".journal"))):
        path = text.removeprefix(f"{kind}:///") if text.startswith(f"{kind}:///") else text
        if path.endswith(endings) and "://" not in path:
            return f"{kind}:///{(folder / path).absolute()}"
    if "://" in text and not text.startswith("journal:"):
        return text
    raise UsageError(
        f"hydra.sweeper.storage={text}: give a file name that ends in .db (sqlite) or .log (journal), or a database URL"
    )


def seed_of(sampler_seed: int, number: int) -> int:
    """The seed with which trial `number` is drawn, whatever was drawn before by this process."""
    return int.from_bytes(hashlib.sha256(f"{sampler_seed}/{number}".encode()).digest()[:4], "big")


def _direction(job: Job) -> str:
    mode = getattr(locate(str(job.settled.run.task["_target_"])), "mode", "max")
    return "maximize" if mode == "max" else "minimize"


def _identity(corner: Job, space: Space) -> str:
    """What makes trials comparable: the settings outside the space, and the space."""
    config = json.loads(json.dumps(corner.settled.config))
    for dimension in space.dimensions:
        section, _, name = dimension.key.rpartition(".")
        node = config
        for part in section.split(".") if section else ():
            node = node.get(part) or {}
        node.pop(name, None)
    return signature({"config": {**config, "run_anyway": False, "tracking": None}, "space": repr(space.dimensions)})


def _open_study(url: str, name: str, direction: str, identity: str) -> Study:
    """Create the study or open it. Raises RunError where that fails, UsageError where it is another search's."""
    import optuna

    file = file_of(url)
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        storage = open_storage(url)
        opened = optuna.create_study(study_name=name, storage=storage, direction=direction, load_if_exists=True)
        known = opened.user_attrs.get("identity")
        if known is None:
            opened.set_user_attr("identity", identity)
    except (UsageError, RunError):
        raise
    except Exception as error:  # databases and drivers raise errors of their own
        first = (str(error).strip() or "no message").splitlines()[0]
        raise RunError(f"cannot open the study {name} in {url}: {type(error).__name__}: {first}") from error
    if known not in (None, identity):
        raise UsageError(
            f"the study {name} in {url} was begun with another space or other fixed settings: "
            "give this one a name of its own with hydra.sweeper.study_name=NAME"
        )
    return Study(url, name, direction, storage)


def _continue(asked: Search, space: Space, session: Session, study: Study, folder: Path) -> int:
    """Run trials until there are enough; return the exit code."""
    tally = Tally(asked.n_trials, "trial")
    while True:
        trials = study.trials()
        _write_study(folder, session, trials)
        failures = sum(trial.state.name == "FAIL" for trial in trials)
        if asked.max_failures is not None and failures > asked.max_failures:
            print(f"stopped: {failures} trials failed, hydra.sweeper.max_failures allows {asked.max_failures}")
            return EXIT_PARTLY_FAILED
        batch = {trial.number: trial.params for trial in trials if trial.state.name == "RUNNING"}
        for _ in range(min(asked.n_jobs - len(batch), asked.n_trials - len(trials))):
            number, values = _ask(asked, space, study)
            batch[number] = values
        if not batch:
            return EXIT_PARTLY_FAILED if failures else 0
        jobs = _plan(asked, space, session, study, batch)
        tally.ended_as = Counter(status_of(trial) for trial in trials if trial.state.name != "RUNNING")
        known = {number for number, job in jobs.items() if _is_known(job, session, study)}
        for number in sorted(known):
            print(f"{tally.label(number + 1)} {outcome(jobs[number])['status']} already: {jobs[number].run.path}")
        new: dict[str, Job] = {}
        for number, job in jobs.items():
            if number not in known:
                new.setdefault(job.key, job)
        session.run(list(new.values()), tally)
        if session.stopped:
            return session.stopped
        for number, job in jobs.items():
            _tell(study, number, job)


def _ask(asked: Search, space: Space, study: Study) -> tuple[int, dict[str, Any]]:
    """Draw the next trial's values in a copy of the study and write the trial with all of them at once."""
    import optuna

    trials = study.trials()
    seed = seed_of(asked.sampler_seed, len(trials))
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=asked.n_jobs > 1)
    copy = optuna.create_study(direction=study.direction, sampler=sampler)
    copy.add_trials(trials)
    trial = copy.ask()
    values = {dimension.key: dimension.draw(trial) for dimension in space.dimensions}
    drawn = copy.get_trials(deepcopy=False)[-1]
    running = optuna.trial.TrialState.RUNNING
    study.now.add_trial(
        optuna.trial.create_trial(state=running, params=values, distributions=dict(drawn.distributions))
    )
    return study.trials()[-1].number, values


def _plan(
    asked: Search, space: Space, session: Session, study: Study, batch: Mapping[int, Mapping[str, Any]]
) -> dict[int, Job]:
    """One planned job a trial; a point that cannot be is told as failed."""
    jobs: dict[int, Job] = {}
    for number, values in batch.items():
        try:
            (job,) = session.plan([space.point(values)])
        except UsageError as error:
            reason = "; ".join(error.problems)
            print(f"{Tally(asked.n_trials, 'trial').label(number + 1)} refused: {reason}")
            _end(study, number, "FAIL", status="refused", reason=reason)
            continue
        place = {"storage": study.url, "study": study.name, "number": number, "pruner": asked.pruner}
        job.extra, job.number, job.title = {"trial": place}, number + 1, space.words(values)
        study.storage.set_trial_user_attr(study.id_of(number), "run", job.settled.directory)
        jobs[number] = job
    return jobs


def _is_known(job: Job, session: Session, study: Study) -> bool:
    """Whether the point's outcome is on disk: done, or ended otherwise as a trial of this very study."""
    if session.is_done(job):
        return True
    trial = (job.run.read_plan() or {}).get("trial") or {}
    own = (trial.get("storage"), trial.get("study")) == (study.url, study.name)
    return own and job.run.status() in {*STATUSES} - {"done", "interrupted"}


def _tell(study: Study, number: int, job: Job) -> None:
    """Tell a trial's outcome, with the intermediate values that its job could not report itself."""
    result = outcome(job)
    trial_id, monitor = study.id_of(number), str(result.get("monitor"))
    reported = study.storage.get_trial(trial_id).intermediate_values
    for line in job.run.read_metrics():
        value = line.get(monitor)
        if line["step"] not in reported and isinstance(value, int | float):
            study.storage.set_trial_intermediate_value(trial_id, line["step"], float(value))
    objective = result.get("objective")
    if result["status"] == "done" and isinstance(objective, int | float) and math.isfinite(objective):
        _end(study, number, "COMPLETE", objective, status="done")
    else:
        state = "PRUNED" if result["status"] == "pruned" else "FAIL"
        _end(study, number, state, status=result["status"], reason=str(result.get("reason") or ""))


def _end(study: Study, number: int, state: str, value: float | None = None, **notes: str) -> None:
    import optuna

    for key, text in notes.items():
        study.storage.set_trial_user_attr(study.id_of(number), key, text[:500])
    study.now.tell(number, value, state=optuna.trial.TrialState[state])


def _write_study(folder: Path, session: Session, trials: Iterable[Any]) -> None:
    """Say on disk which runs the search consists of so far, for `status` and the report."""
    runs = dict.fromkeys(trial.user_attrs["run"] for trial in trials if "run" in trial.user_attrs)
    told = {"phase": str(session.master.phase), "command": ["python", "train.py", *sys.argv[1:]], "stages": []}
    kept = {key: OmegaConf.to_container(session.master[key]) for key in ("expect", "labels")}
    write_json(folder / "study.json", {**told, "jobs": list(runs), "not_run": [], **kept})
