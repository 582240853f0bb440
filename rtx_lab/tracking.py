"""TensorBoard and wandb, beside metrics.jsonl.

A key of metrics.jsonl is the TensorBoard tag and the wandb key, letter for letter. wandb also gets four older names,
so that existing dashboards go on working: train_loss, learning_rate, memory_used and reasoning_steps (`SEED_KEYS`).
TensorBoard gets, for denoisers, train/total_loss, train/recon_loss, train/gate_loss, train/lr, and val/* for
validation/*.

Tracking never stops or delays training: wandb lives in a thread of its own behind a bounded queue, and the first error
of a sink turns that sink off with one line of warning. metrics.jsonl stays the record that counts.
"""

import contextlib
import importlib
import logging
import math
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rtx_lab.core.credentials import credential_advice, read_env_file

log = logging.getLogger(__name__)

SEED_KEYS = {
    "train_loss": ("loss",),
    "learning_rate": ("lr",),
    "memory_used": ("memory_gb",),
    "reasoning_steps": ("reasoning_steps", "avg_reasoning_steps", "validation/avg_reasoning_steps"),
}
DENOISER_TAGS = {
    "total_loss": "train/total_loss",
    "recon_loss": "train/recon_loss",
    "gate_loss": "train/gate_loss",
    "lr": "train/lr",
}
QUEUE_SIZE = 1000
INIT_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 30.0


class Settings(Protocol):
    """The `tracking` section of the configuration."""

    wandb: str
    tensorboard: bool
    project: str
    entity: str | None
    group: str | None
    tags: list[str]


class Sink(Protocol):
    """A place that takes scalars by step."""

    name: str

    def write(self, scalars: Mapping[str, float], step: int) -> None: ...

    def close(self, metrics: Mapping[str, float]) -> None: ...


class Tracker:
    """Sends the numbers of one run to TensorBoard (RUN/tensorboard) and wandb (RUN/wandb), as the settings say.

    `signature` names the wandb run, so a resumed run continues its curves; `config` (plain, settled) becomes hparams;
    events after `resume_step` that an interrupted attempt left in TensorBoard are purged. Use on rank 0 only.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        signature: str,
        config: Mapping[str, Any] | None = None,
        resume_step: int = 0,
    ) -> None:
        hparams = flatten(config or {})
        self._sinks: list[Sink] = []
        if settings.tensorboard:
            self._sinks.append(TensorBoardSink(folder / "tensorboard", hparams, resume_step))
        if settings.wandb != "off":
            read_env_file()
            self._sinks.append(WandbSink(settings, folder, signature, hparams))

    def log(self, record: Mapping[str, Any]) -> None:
        """Write one record of metrics.jsonl; needs `step`. What is not a finite number is left out."""
        scalars = _scalars(record)
        for sink in list(self._sinks):
            try:
                sink.write(scalars, int(record["step"]))
            except Exception as error:
                self._drop(sink, error)

    def close(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Write the final metrics beside the hparams and wait, for a bounded time, until everything has left."""
        for sink in list(self._sinks):
            try:
                sink.close(_scalars(metrics or {}))
            except Exception as error:
                self._drop(sink, error)
        self._sinks = []

    def _drop(self, sink: Sink, error: Exception) -> None:
        self._sinks.remove(sink)
        log.warning("%s is off for the rest of this run: %s", sink.name, one_line(error))


class TensorBoardSink:
    """Event files below `folder`; made with the first record, so that a run that logs nothing leaves nothing."""

    name = "tensorboard"

    def __init__(self, folder: Path, hparams: Mapping[str, Any], resume_step: int) -> None:
        self._folder, self._hparams, self._resume_step = folder, hparams, resume_step
        self._writer: Any | None = None

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        writer = self._writer or self._open()
        for key, value in with_denoiser_tags(scalars).items():
            writer.add_scalar(key, value, step)

    def _open(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _without_event_writer
        purge_step = self._resume_step + 1 if self._resume_step else None
        self._writer = SummaryWriter(str(self._folder), purge_step=purge_step, flush_secs=30)
        return self._writer

    def close(self, metrics: Mapping[str, float]) -> None:
        if self._writer is None:
            return
        from torch.utils.tensorboard.summary import hparams

        # SummaryWriter.add_hparams would put these into a sub-run named by the clock.
        for summary in hparams(dict(self._hparams), dict(metrics)):
            self._writer.file_writer.add_summary(summary)
        for key, value in metrics.items():
            self._writer.add_scalar(key, value)
        self._writer.close()


class WandbSink:
    """A wandb run, spoken to from a thread of its own: neither its start nor a slow network is ever waited for."""

    name = "wandb"

    def __init__(self, settings: Settings, folder: Path, signature: str, hparams: Mapping[str, Any]) -> None:
        self._settings, self._folder, self._signature, self._hparams = settings, folder, signature, hparams
        self._queue: queue.Queue[tuple[dict[str, float], int | None] | None] = queue.Queue(QUEUE_SIZE)
        self._lost = 0
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="wandb-sink", daemon=True)
        self._thread.start()

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        self._raise()
        self._put((with_seed_keys(scalars), step))

    def close(self, metrics: Mapping[str, float]) -> None:
        self._raise()
        self._put((dict(metrics), None))
        self._put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        self._raise()
        if self._thread.is_alive():
            rest = f"`wandb sync {self._folder}/wandb/*run-*`"
            rest = f"`wandb sync {self._folder}/wandb/*run-*`"
            raise TimeoutError(f"not finished after {CLOSE_TIMEOUT_S:.0f} s; send the rest with {rest}")
        if self._lost:
            log.warning("wandb was too slow: %d records are in metrics.jsonl only", self._lost)

    def _put(self, item: tuple[dict[str, float], int | None] | None) -> None:
        while True:
            try:
                return self._queue.put_nowait(item)
            except queue.Full:
                self._lost += 1
            if item is not None:
                return None
            with contextlib.suppress(queue.Empty):  # the end must arrive: make room
                self._queue.get_nowait()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            run = self._start()
            while (item := self._queue.get()) is not None:
                scalars, step = item
                if step is None:
                    run.summary.update(scalars)
                else:
                    run.log(scalars, step=step)
            run.finish()
        except Exception as error:
            self._error = error

    def _start(self) -> Any:
        wandb = importlib.import_module("wandb")
        online = self._settings.wandb == "online"
        # Asked without a prompt first: init would ask for a key on the terminal, in the middle of the training log.
        if online and not wandb.login(prompt=False):
            raise PermissionError("no API key; set WANDB_API_KEY (environment or .env), or use tracking.wandb=offline")
        return wandb.init(
            project=self._settings.project,
            entity=self._settings.entity,
            group=self._settings.group,
            tags=list(self._settings.tags),
            id=self._signature,
            name=self._folder.name,
            dir=str(self._folder),
            mode=self._settings.wandb,
            resume="allow" if online else None,
            config=dict(self._hparams),
            settings=wandb.Settings(
                init_timeout=INIT_TIMEOUT_S, finish_timeout=CLOSE_TIMEOUT_S, silent=True, console="off"
            ),
        )


def _without_event_writer(error: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread keeps its error and raises it from the next write, where it becomes one warning."""
    if type(error.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(error)


def with_seed_keys(scalars: Mapping[str, float]) -> dict[str, float]:
    """Return the scalars with the older wandb names beside ours."""
    found = dict(scalars)
    for name, keys in SEED_KEYS.items():
        value = next((scalars[key] for key in keys if key in scalars), None)
        if value is not None:
            found[name] = value
    return found


def with_denoiser_tags(scalars: Mapping[str, float]) -> dict[str, float]:
    """Return the scalars with the older TensorBoard tags of denoisers beside ours, where they are a denoiser's."""
    found = dict(scalars)
    if "recon_loss" in scalars:
        found |= {tag: scalars[key] for key, tag in DENOISER_TAGS.items() if key in scalars}
    if any(key.startswith("validation/mask/") for key in scalars):
        found |= {
            key.replace("validation/", "val/", 1): value
            for key, value in scalars.items()
            if key.startswith("validation/")
        }
    return found


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Return nested settings as one level with dotted keys, every value of a kind that hparams can hold."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def one_line(error: BaseException) -> str:
    """Return an error as one line, with the variable to set where a service refused access."""
    text = " ".join(str(error).split()) or type(error).__name__
    advice = credential_advice(error)
    return f"{text}; {advice}" if advice else text


def _scalars(record: Mapping[str, Any]) -> dict[str, float]:
    numbers = {key: value for key, value in record.items() if isinstance(value, int | float) and key != "step"}
    return {key: float(value) for key, value in numbers.items() if math.isfinite(value)}
