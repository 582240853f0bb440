"""Check what a run needs before it is started: GPU, memory, disk, packages, tracking, data, last checkpoints.

    python -m rtx_lab doctor
    python -m rtx_lab doctor --hardware rtx4090 --json

Exit code 1 when a check fails; a warning is no failure. Nothing is downloaded and nothing is written.
"""

import argparse
import difflib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rtx_lab.commands import checks
from rtx_lab.commands.checks import Check
from rtx_lab.commands.places import DEFAULT_ROOT
from rtx_lab.core.credentials import read_env_file
from rtx_lab.core.errors import RunError, UsageError

_MARKS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--hardware", default="auto", help="a preset of conf/hardware to compare with (default: auto)")
    parser.add_argument("--runs", type=Path, default=DEFAULT_ROOT, help="where the runs are (default: multirun)")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")


def main(args: argparse.Namespace) -> int:
    """Print one row per check; 1 when one of them fails."""
    preset = read_preset(args.hardware)
    read_env_file()
    found = list(_all_checks(preset, args.runs))
    if args.json:
        print(json.dumps([asdict(check) for check in found], indent=1))
    else:
        _print_table(found, args.hardware)
    return int(any(check.state == "fail" for check in found))


def _all_checks(preset: dict[str, Any], runs: Path) -> Iterator[Check]:
    yield checks.python_version()
    yield checks.packages()
    yield from checks.gpus(preset)
    yield checks.ram(preset)
    yield checks.disk(preset, runs)
    yield checks.wandb(runs)
    yield checks.hub()
    yield from checks.datasets(conf_folder() / "dataset")
    yield from checks.checkpoints(runs)


def conf_folder() -> Path:
    """Return the configuration folder: of the working directory, else of the checkout that this package is in."""
    here = Path("conf")
    return here if here.is_dir() else Path(__file__).resolve().parents[2] / "conf"


def read_preset(name: str) -> dict[str, Any]:
    """Return the settings of a hardware preset. Raises UsageError for an unknown name, RunError for a broken file."""
    import yaml

    folder = conf_folder() / "hardware"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
        raise UsageError(f"there is no preset {name!r} in {folder}: {hint}")
    try:
        settings = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise RunError(f"{folder / name}.yaml cannot be read: {' '.join(str(error).split())}") from error
    return {"name": name, **settings}


def _print_table(found: list[Check], preset: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "check", "finding", "remedy"):
        table.add_column(column, overflow="fold")
    for check in found:
        mark, style = _MARKS[check.state]
        table.add_row(Text(mark, style=style), check.name, Text(check.finding), Text(check.remedy))
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)
    failed, warned = (sum(check.state == state for check in found) for state in ("fail", "warn"))
    print(f"\n{len(found)} checks for hardware={preset}: {failed} failed, {warned} with a warning")
