"""Write what a study found: report.md, report.html, results.csv, figures and LaTeX tables in PATH/report.

python -m rtx_lab report multirun/nd_ratio
python -m rtx_lab report multirun/nd_ratio --compare "N=64" "N=128"
python -m rtx_lab report multirun --compare multirun/main/RUN_A multirun/main/RUN_B
"""

import argparse
import json
from pathlib import Path

from rtx_lab.core.errors import UsageError
from rtx_lab.report.build import build_report

DEFAULT_ROOT = Path("multirun")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("path", nargs="?", type=Path, help="a run, a phase folder or multirun (default: multirun)")
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="two run directories or settings to set side by side in full"
    )
    parser.add_argument("--json", action="store_true", help="print the folder and the headlines as JSON")


def main(args: argparse.Namespace) -> int:
    """Write the report; 0 also when runs have failed, since telling so is not a failure."""
    root = args.path or DEFAULT_ROOT
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}: give a run, a phase folder or multirun")
    document = build_report(root, tuple(args.compare) if args.compare else None)
    folder = root / "report"
    if args.json:
        print(json.dumps({"folder": str(folder), "headlines": document.headlines}, indent=1, ensure_ascii=False))
        return 0
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True)
    for line in document.headlines:
        console.print(f"[bold]-[/bold] {escape(line)}", highlight=False)
    console.print(f"\n{escape(str(folder / 'report.md'))}\n{escape(str(folder / 'report.html'))}", highlight=False)
    return 0
