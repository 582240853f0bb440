"""One variant of a benchmark in a process of its own, so that no variant sees the memory of another."""

import argparse
import json
import subprocess
import sys
from pathlib import Path


def status_bytes(key: str) -> int:
    """Read VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def in_fresh_process(script: str, variant: str, options: argparse.Namespace, *extra: str) -> dict[str, float]:
    """Start `script` with --variant and the options of this start; return what it prints as JSON."""
    command = [sys.executable, script, "--variant", variant, "--batch", str(options.batch), *extra]
    command += ["--repeats", str(options.repeats)] + (["--quick"] if options.quick else [])
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
