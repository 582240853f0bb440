"""Write what a study found: report.md, report.html, results.csv, figures and LaTeX tables in PATH/report.

python -m rtx_lab report multirun/nd_ratio
python -m rtx_lab report multirun/nd_ratio --compare "N=64" "N=128"
python -m rtx_lab report multirun --compare 30fe819a nd_ratio/n128-...-seed1

--compare writes PATH/report/compare-A-B.md instead and says what it found. A and B are runs (folders, or parts of their
names as `status` shows them) or settings as the report calls them.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from rtx_lab.commands.listing import fold, page_width
from rtx_lab.commands.places import (
    SETTING_PARTS,
    find_folder,
    match,
    match_folders,
    name_folders,
    none_found,
    several_found,
)
from rtx_lab.report.build import Study, build_report, read_study
from rtx_lab.report.groups import Group
from rtx_lab.report.runs import load_runs
from rtx_lab.report.versus import Versus, compare_sides, say_versus, side_of, write_versus

_KIND = "run or setting"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("path", nargs="?", type=Path, help="a run, a phase folder or multirun (default: multirun)")
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="two runs or settings to set side by side in full"
    )
    parser.add_argument("--json", action="store_true", help="print what was found and where it stands as JSON")


def main(args: argparse.Namespace) -> int:
    """Write the report; 0 also when runs have failed, since telling so is not a failure."""
    root = find_folder(args.path, "a run, a phase folder or multirun")
    if args.compare:
        return _compare(root, *args.compare, as_json=args.json)
    document, folder = build_report(root), root / "report"
    if args.json:
        _print_json({"folder": str(folder), "headlines": document.headlines})
    else:
        _print_list(document.headlines)
        print("", folder / "report.md", folder / "report.html", sep="\n")
    return 0


def _compare(root: Path, left: str, right: str, *, as_json: bool) -> int:
    study = read_study(root)
    sides = find_side(left, study, root), find_side(right, study, root)
    versus = compare_sides(*sides, study.leaf, study.comparisons)
    path = write_versus(root / "report", versus)
    if as_json:
        _print_json(_as_data(versus) | {"file": str(path)})
        return 0
    width = page_width()
    for letter, side in zip("AB", sides, strict=True):
        print(*fold(f"{letter}: {_describe(side)}", width), sep="\n")
    _print_list(say_versus(versus))
    print("", f"in full: {path}", sep="\n")
    return 0


def find_side(text: str, study: Study, root: Path) -> Group:
    """Return the setting of this label, else the one run or setting that `text` names or is a part of.

    A run that is alone in its setting is that setting. Raises UsageError with the candidates or the nearest name.
    """
    labels = [group.label for group in study.groups]
    if text in labels:
        return study.groups[labels.index(text)]
    runs = {run.path: run for run in study.runs}
    if os.path.isfile(Path(text, "config.yaml")) and Path(os.path.abspath(text)) not in runs:
        return side_of(load_runs(Path(text))[0])  # a run elsewhere
    alone = {group.runs[0].path: group for group in study.groups if len(group.runs) == 1}
    folders = match_folders(text, list(runs), root)
    settings = [study.groups[place] for place in match(text, labels, SETTING_PARTS)]
    sides = [alone.get(folder) or side_of(runs[folder]) for folder in folders]
    sides += [group for group in settings if not any(group is side for side in sides)]
    if not sides:
        raise none_found(text, [*labels, *(folder.name for folder in runs)], root, _KIND)
    if len(sides) > 1:
        names = [*name_folders(folders), *(side.label for side in sides[len(folders) :])]
        raise several_found(text, names, root, _KIND)
    return sides[0]


def _describe(side: Group) -> str:
    runs = ", ".join(run.name for run in side.runs)
    return runs if len(side.runs) == 1 and side.label in runs else f"{side.label} ({runs})"


def _as_data(versus: Versus) -> dict[str, Any]:
    """The comparison for other programs; numbers in full precision."""
    found = [
        {"metric": one.leaf, "difference": one.difference.difference, "low": one.difference.low,
         "high": one.difference.high, "p": one.difference.p, "p_holm": one.p, "shown": one.shown,
         "detectable": one.detectable, "items": one.difference.num_items, "method": one.difference.method}
        for one in versus.compared if one.difference is not None
    ]  # fmt: skip
    runs = {letter: [str(run.path) for run in side.runs] for letter, side in (("a", versus.left), ("b", versus.right))}
    return {**runs, "sentences": say_versus(versus), "comparisons": found}


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _print_list(sentences: list[str]) -> None:
    """One sentence a point, folded to the width of the page."""
    width = page_width()
    for sentence in sentences:
        print(*(f"{'  ' if number else '- '}{line}" for number, line in enumerate(fold(sentence, width and width - 2))),
              sep="\n")  # fmt: skip
