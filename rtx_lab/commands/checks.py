"""The checks of `doctor`, each one finding and, where needed, one remedy. None of them raises."""

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rtx_lab.commands.places import list_runs
from rtx_lab.core import telemetry
from rtx_lab.core.errors import RunError, UsageError

PACKAGES = (
    *("torch", "hydra-core", "omegaconf", "transformers", "peft", "bitsandbytes", "datasets", "wandb"),
    *("hydra-optuna-sweeper", "safetensors", "huggingface-hub", "tensorboard", "numpy", "scipy"),
)
HOT_C, TOO_HOT_C = 83.0, 90.0  # consumer cards slow down from about 83 degrees
FREE_SHARE = 0.9  # of the preset's memory; the rest is the desktop and the driver
MIN_FREE_DISK_GB = 2.0
CHECKPOINT_SHARE = 0.75  # weights and two Adam moments are 12 of the 16 bytes a parameter takes in training
NEWEST_RUNS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row: what was looked at, ok | warn | fail, what was found, what to do about it."""

    name: str
    state: str
    finding: str
    remedy: str = ""


def python_version() -> Check:
    """The interpreter in use."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Check(name="python", state="ok", finding=f"{version} at {sys.executable}")


def packages() -> Check:
    """The packages that a run uses, within the ranges that this project declares where it is installed."""
    wanted = _declared_ranges()
    versions: dict[str, str | None] = {name: _version(name) for name in PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    outside = [
        f"{name} {version} (wanted {wanted[name]})"
        for name, version in versions.items()
        if version and name in wanted and not wanted[name].contains(version, prereleases=True)
    ]
    finding = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    problems = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"outside: {', '.join(outside)}"] * bool(outside)
    if not problems:
        return Check(name="packages", state="ok", finding=finding)
    state = "fail" if missing else "warn"
    return Check(name="packages", state=state, finding="; ".join(problems), remedy='pip install -e ".[dev]"')


def _declared_ranges() -> dict[str, Any]:
    try:
        from packaging.requirements import Requirement

        requirements = [Requirement(line) for line in metadata.requires("rtx-lab") or []]
    except (ImportError, metadata.PackageNotFoundError):
        return {}
    return {requirement.name: requirement.specifier for requirement in requirements if requirement.marker is None}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def gpus(preset: dict[str, Any]) -> Iterator[Check]:
    """Every GPU: free memory against the preset, temperature, load; none is a failure for a GPU preset alone."""
    found = telemetry.gpus()
    if not found:
        needs_one = preset.get("device") == "cuda"
        remedy = "training needs the driver and the card; plan=true works without" if needs_one else ""
        finding = "no NVIDIA GPU or driver: runs use the CPU"
        yield Check(name="gpu", state="fail" if needs_one else "ok", finding=finding, remedy=remedy)
        return
    if "+cpu" in (_version("torch") or ""):
        remedy = "install a CUDA build of torch"
        yield Check(name="gpu", state="warn", finding="a GPU is there, but torch is a CPU build", remedy=remedy)
    for index, gpu in enumerate(found):
        yield _gpu(f"gpu {index}", gpu, preset)


def _gpu(name: str, gpu: telemetry.Gpu, preset: dict[str, Any]) -> Check:
    wanted = preset.get("memory_gb") if preset.get("device") == "cuda" else None
    temperature = gpu.temperature_c or 0.0
    finding = ", ".join(_readings(gpu))
    if wanted and gpu.memory_total_gb is not None and gpu.memory_total_gb < FREE_SHARE * wanted:
        remedy = f"choose a preset for {gpu.memory_total_gb:.0f} GB: {preset['name']} assumes {wanted:g} GB"
        return Check(name=name, state="fail", finding=finding, remedy=remedy)
    if temperature >= TOO_HOT_C:
        return Check(name=name, state="fail", finding=finding, remedy="let it cool down; check fans and airflow")
    if wanted and gpu.memory_free_gb is not None and gpu.memory_free_gb < FREE_SHARE * wanted:
        remedy = "end what else uses it (nvidia-smi shows what), or set hardware.memory_gb to what is free"
        return Check(name=name, state="warn", finding=finding, remedy=remedy)
    if temperature >= HOT_C:
        remedy = "it slows itself down when this hot: check fans, or limit its power (nvidia-smi -pl)"
        return Check(name=name, state="warn", finding=finding, remedy=remedy)
    return Check(name=name, state="ok", finding=finding)


def _readings(gpu: telemetry.Gpu) -> Iterator[str]:
    yield gpu.name
    if gpu.memory_total_gb is not None and gpu.memory_free_gb is not None:
        yield f"{gpu.memory_free_gb:.1f} of {gpu.memory_total_gb:.1f} GB free"
    units = ((gpu.temperature_c, "C"), (gpu.utilization, "% busy"), (gpu.power_w, " W"))
    yield from (f"{value:.0f}{unit}" for value, unit in units if value is not None)


def ram(preset: dict[str, Any]) -> Check:
    """Free main memory: as much as the device of the preset, since weights pass through it."""
    memory = telemetry.ram_gb()
    if memory is None:
        return Check(name="ram", state="warn", finding="cannot be read on this system")
    free, total = memory
    finding, wanted = f"{free:.1f} of {total:.1f} GB free", preset.get("memory_gb")
    if wanted and free < wanted:
        remedy = f"{preset['name']} assumes {wanted:g} GB: close other programs, or expect large models to swap"
        return Check(name="ram", state="warn", finding=finding, remedy=remedy)
    if free < 2:
        return Check(name="ram", state="fail", finding=finding, remedy="close other programs")
    return Check(name="ram", state="ok", finding=finding)


def disk(preset: dict[str, Any], runs: Path) -> Check:
    """Free space where the runs go: at least one checkpoint of a model that fills the preset's memory."""
    space = telemetry.disk_gb(runs)
    if space is None:
        return Check(name="disk", state="warn", finding=f"cannot be read at {runs}")
    free, total = space
    largest = CHECKPOINT_SHARE * float(preset.get("memory_gb") or 0)
    finding = f"{free:.0f} of {total:.0f} GB free at {runs}"
    if free < MIN_FREE_DISK_GB:
        return Check(name="disk", state="fail", finding=finding, remedy="free some space: checkpoints need it")
    if free < largest:
        remedy = (
            f"the largest model of {preset['name']} saves {largest:.0f} GB a checkpoint: free space or lower keep_last"
        )
        return Check(name="disk", state="warn", finding=finding, remedy=remedy)
    return Check(name="disk", state="ok", finding=finding)


def wandb(runs: Path) -> Check:
    """Whether wandb is installed and has a key, and what offline runs wait to be sent."""
    version = _version("wandb")
    if version is None:
        return Check(
            name="wandb", state="warn", finding="not installed", remedy="pip install wandb, or tracking.wandb=off"
        )
    waiting = len(list(runs.glob("**/wandb/offline-run-*"))) if runs.is_dir() else 0
    parts = [version, f"mode {os.environ['WANDB_MODE']}"] if os.environ.get("WANDB_MODE") else [version]
    parts += [f"{waiting} offline runs not synced (wandb sync {runs}/*/*/wandb/offline-run-*)"] * bool(waiting)
    key = "in WANDB_API_KEY" if os.environ.get("WANDB_API_KEY") else "in ~/.netrc" if _netrc_has_wandb() else None
    if key:
        return Check(name="wandb", state="ok", finding=", ".join([*parts, f"key {key}"]))
    remedy = "only for tracking.wandb=online: set WANDB_API_KEY (environment or .env) or run wandb login"
    return Check(name="wandb", state="warn", finding=", ".join([*parts, "no key"]), remedy=remedy)


def _netrc_has_wandb() -> bool:
    try:
        text = Path(os.environ.get("NETRC") or Path.home() / ".netrc").read_text()
    except (OSError, UnicodeDecodeError, RuntimeError):
        return False
    return re.search(r"\bmachine\s+\S*wandb", text) is not None


def hub() -> Check:
    """Whether the Hugging Face hub may be asked, and as whom."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    known = bool(os.environ.get("HF_TOKEN")) or (home / "token").is_file()
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    token = "token set" if known else "no token (HF_TOKEN): public data and models only"
    return Check(name="hub", state="ok", finding=f"{token}{', offline' if offline else ''}; cache {home}")


def datasets(folder: Path) -> Iterator[Check]:
    """Every preset of conf/dataset: whether its splits are on this machine, without downloading anything."""
    asked = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported, which is below
    try:
        for path in sorted(folder.glob("*.yaml")):
            yield _dataset(path)
    finally:
        if asked is None:
            del os.environ["HF_HUB_OFFLINE"]


def _dataset(path: Path) -> Check:
    name = f"data {path.stem}"
    try:
        dataset = _build(path)
        for source in dataset.sources.values():
            source.digest()
    except (RunError, UsageError) as error:
        return Check(name=name, state="warn", finding="not on this machine", remedy=str(error))
    except Exception as error:
        return Check(name=name, state="fail", finding=f"{path} cannot be used: {' '.join(str(error).split())}")
    root = os.environ.get("RTX_LAB_DATA")
    kind = type(next(iter(dataset.sources.values()))).__name__
    where = "built in" if kind.startswith("Generated") else f"below {root}" if root else "in the hub's cache"
    return Check(name=name, state="ok", finding=f"{', '.join(dataset.sources)} {where}")


def _build(path: Path) -> Any:
    import importlib

    import yaml

    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    module, _, function = settings.pop("_target_").rpartition(".")
    settings.pop("_partial_", None)
    return getattr(importlib.import_module(module), function)(**settings)


def checkpoints(runs: Path) -> Iterator[Check]:
    """The newest checkpoint of the newest runs, every byte against its digest."""
    folders = [run.path / "checkpoints" for run in list_runs(runs)] if runs.is_dir() else []
    with_any = [folder for folder in folders if any(folder.glob("step-*"))]
    if not with_any:
        yield Check(name="checkpoints", state="ok", finding=f"none below {runs} yet")
        return
    newest_runs = sorted(with_any, key=lambda folder: folder.stat().st_mtime, reverse=True)[:NEWEST_RUNS]
    for folder in newest_runs:
        yield _checkpoint(folder)


def _checkpoint(folder: Path) -> Check:
    from rtx_lab.core import checkpoint

    name = f"checkpoint {folder.parent.name}"
    try:
        good, problems = checkpoint.newest(folder)
    except (OSError, RunError) as error:
        return Check(name=name, state="fail", finding=str(error))
    damage = "; ".join(problems)
    if good is None:
        return Check(name=name, state="fail", finding=damage or "none is whole", remedy="run the same command again")
    if problems:
        return Check(name=name, state="warn", finding=damage, remedy=f"a new start continues from {good.name}")
    return Check(name=name, state="ok", finding=f"{good.name}: every digest is right")
