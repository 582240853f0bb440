"""Hold a file to be handed in against the dialogues it is for.

    python -m rtx_lab submission submission.csv --against FOLDER/test.csv

Says what is missing, unknown, repeated, empty or out of order. Exit codes: 0 nothing is wrong, 2 something is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rtx_lab.core.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("file", type=Path, help="a CSV of fname and summary")
    parser.add_argument("--against", type=Path, required=True, help="the CSV of the dialogues: fname, dialogue")


def main(args: argparse.Namespace) -> int:
    """Check one file. Raises UsageError with everything that is wrong."""
    from rtx_lab.data.dialogue_files import names_of
    from rtx_lab.data.submission import check_submission

    names = names_of(args.against)
    problems = check_submission(args.file, names)
    if problems:
        raise UsageError(*problems)
    print(f"{args.file}: {len(names)} summaries, in the order of {args.against}")
    return 0
