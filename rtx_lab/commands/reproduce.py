"""Run a finished run again from its record, in a folder of its own, and say whether the same comes out.

python -m rtx_lab reproduce multirun/main/RUN
python -m rtx_lab reproduce 30fe819a                   a part of its name, as `status` shows it
python -m rtx_lab reproduce multirun/main/RUN --keep again --band 0.02

PASS (bit-exact): logged numbers, predictions, metrics and best weights are the same. Where the machine, versions, code
or a GPU differ, PASS (within the band): the metric lies where one more seed of this configuration would. Else FAIL,
with the first difference. --band X allows X to either side instead. Exit codes: 0 PASS, 1 FAIL, 2 wrong input.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import rtx_lab
from rtx_lab.commands.places import find_run
from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.core.rundir import RunDir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("run", help="a finished run: its folder or a part of its name, see status")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="run in DIR (empty or not there yet) and keep it")
    parser.add_argument("--band", type=float, metavar="X", help="pass if the metric is within X of the recorded one")


def main(args: argparse.Namespace) -> int:
    """Reproduce one run; the verdict is the last line."""
    run = find_run(args.run)
    config, result = _record(run)
    if args.band is not None and not 0 <= args.band < float("inf"):
        raise UsageError(f"--band must be a number from 0 on, got {args.band}")
    if args.keep is not None and args.keep.exists() and (not args.keep.is_dir() or any(args.keep.iterdir())):
        raise UsageError(f"--keep {args.keep} is not an empty folder: name one that is not there yet")
    differences = _check_inputs(config, result)
    for line in differences:
        print(f"differs: {line}", flush=True)
    place = tempfile.TemporaryDirectory(prefix="reproduce-") if args.keep is None else nullcontext(args.keep)
    with place as folder:
        again = RunDir(Path(folder).absolute())
        _train(run, again)
        return _judge(run, again, config, result, excused=bool(differences), width=args.band)


def _record(run: RunDir) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and result of a finished run. Raises UsageError for anything else."""
    import yaml

    result, status = run.read_result(), run.status()
    if status != "done" or result is None:
        what = "no run" if status == "new" else status
        raise UsageError(f"{run.path} is {what}: only a finished run (done) can be reproduced")
    try:
        config = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{run.config_path} cannot be read: without it there is nothing to run again") from error
    if not isinstance(config, dict):
        raise UsageError(f"{run.config_path} is not the configuration of a run")
    return config, result


def _check_inputs(config: dict[str, Any], result: Mapping[str, Any]) -> list[str]:
    """Refuse other data or missing parents; return what else is not as it was, a GPU's own scatter included."""
    from rtx_lab.commands.likeness import surroundings
    from rtx_lab.core import device, record
    from rtx_lab.core.components import bind
    from rtx_lab.core.schema import settle
    from rtx_lab.preflight import check_inputs, input_digests

    settled = settle(config)
    check_inputs(settled)
    then, now = result.get("digests") or {}, input_digests(settled, bind(settled.run.dataset)())
    changed = [name for name in now if then.get(name) != now[name]]
    if changed:
        raise UsageError(f"these inputs have changed since the run: {', '.join(changed)}; put the old ones back")
    here = {"versions": record.versions(), "git": record.git_state(Path(rtx_lab.__file__).parent)}
    found = surroundings(result, here)
    was, machine = config.get("hardware") or {}, device.detect(settled.run.hardware.device)
    found += [
        f"hardware.{key}: {was[key]} was, {machine[key]} is"
        for key in ("name", "memory_gb")
        if was.get(key) is not None and was[key] != machine[key]
    ]
    if machine["device"] == "cuda" and not was.get("deterministic"):
        found.append("a GPU without hardware.deterministic=true adds in no fixed order")
    return found


def _train(run: RunDir, again: RunDir) -> None:
    """Run the record in a process of its own. Raises RunError if it does not come to its end."""
    source = str(Path(rtx_lab.__file__).parent.parent)
    paths = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "rtx_lab.commands.rerun", str(run.config_path), str(again.path)]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=False)
    result = again.read_result() or {}
    if result.get("status") != "done":
        reason = result.get("reason") or "its process ended without a result"
        raise RunError(f"FAIL: the run was done and is {result.get('status', 'killed')} now: {reason}")


def _judge(
    run: RunDir,
    again: RunDir,
    config: Mapping[str, Any],
    result: Mapping[str, Any],
    *,
    excused: bool,
    width: float | None,
) -> int:
    """Print the verdict and return the exit code."""
    from rtx_lab.commands.likeness import Band, first_difference, judged_metric, seed_band

    difference = first_difference(run, again)
    if difference is None:
        print(f"PASS (bit-exact): {run.path}")
        return 0
    print(f"first difference: {difference}")
    metric = judged_metric(result)
    was, now = (((record or {}).get("metrics") or {}).get(metric) for record in (result, again.read_result()))
    if width is not None and was is not None:
        band = Band(metric, was - width, was + width, "--band")
    else:
        band = seed_band(run, config, result) if excused else None
    if band is None:
        why = f"{metric} has no band" if excused else "nothing around it differs, so nothing may differ"
        print(f"FAIL: not bit-exact, and {why}: {run.path}")
        return 1
    inside = now is not None and band.low <= now <= band.high
    where = f"{metric} {was} was, {now} is; band {band.low:.4f} to {band.high:.4f} ({band.source})"
    print(f"PASS (within the band): {where}" if inside else f"FAIL: {where}")
    return 0 if inside else 1
