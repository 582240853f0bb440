"""Wrong command lines by the thousand: is each refused in a sentence, and does a typo get the right suggestion?

    python benchmarks/fuzz_overrides.py [--count 5000] [--seed 0] [--quick]

Each line goes through the door of train.py in this process, with plan=true, in an empty folder: exit code 0 would have
trained, 2 is a refusal. What a line deserves is known beforehand from how it was made: a mutated key is right only if
it is a key, a value comes from a list of right or of wrong ones. Bars: no wrong line accepted, no right one refused, no
traceback, nothing written, and at least 90 % of single-edit typos (keys, group options, choices) with the right
suggestion first.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import random
import re
import string
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "reference"))

from command_lines import RIGHT, RIGHT_SWEEPS, WRONG, WRONG_SWEEPS

from rtx_lab.nn.connections import CONNECTIONS
from rtx_lab.nn.halting import CRITERIA, HALTINGS
from rtx_lab.nn.slots import SLOTS
from rtx_lab.optim import SCHEDULES
from rtx_lab.sweep.door import COMPOSE_KEYWORDS, HYDRA_KEYWORDS, enter

ROOT = Path(__file__).resolve().parents[1]
BAR = 0.9
GROUPS = ("model", "dataset", "hardware", "optim", "phase")
CHOICES = {
    "model.connection": CONNECTIONS,
    "model.halting": HALTINGS,
    "model.halting_criterion": CRITERIA,
    "model.slots": SLOTS,
    "optim.schedule": SCHEDULES,
    "hardware.device": ("cpu", "cuda", "auto"),
    "hardware.precision": ("fp32", "bf16", "fp16"),
    "tracking.wandb": ("off", "offline", "online"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A command line, whether it is right, and which suggestion a single typo deserves."""

    kind: str
    words: tuple[str, ...]
    right: bool
    suggestion: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="100 lines")
    args = parser.parse_args()
    count = 100 if args.quick else args.count
    os.environ["COLUMNS"] = "100"
    machine = f"{os.cpu_count()} cores, torch {version('torch')}, hydra {hydra.__version__}"
    since = time.perf_counter()
    failures, tally = fuzz(count, args.seed)
    print(f"{count} command lines, seed {args.seed}; {machine}; {time.perf_counter() - since:.0f} s\n")
    for kind in sorted({kind for kind, _ in tally}):
        cells = ", ".join(f"{what} {number}" for (k, what), number in sorted(tally.items()) if k == kind)
        print(f"{kind:16} {cells}")
    print()
    for failure in failures:
        print(failure)
    hits, typos = (sum(n for (_, what), n in tally.items() if what in whats) for whats in (("hit",), ("hit", "miss")))
    share = hits / typos if typos else 1.0
    print(
        f"wrong lines accepted, right ones refused, tracebacks, files: {len(failures)}; bar 0: {_verdict(not failures)}"
    )
    print(f"right suggestion first: {hits} of {typos} ({share:.1%}); bar {BAR:.0%}: {_verdict(share >= BAR)}")


def _verdict(reached: bool) -> str:
    return "reached" if reached else "NOT reached"


def fuzz(count: int, seed: int, tell: Callable[[str], None] = lambda _: None) -> tuple[list[str], Counter]:
    """Send `count` lines through the door; return what went wrong, and counts by (kind, outcome)."""
    rng = random.Random(seed)
    names = read_names()
    failures: list[str] = []
    tally: Counter = Counter()
    for _ in range(count):
        case = rng.choices(list(MAKERS), weights=list(MAKERS.values()))[0](rng, names)
        code, text, files = send(case.words)
        tally[case.kind, "accepted" if code == 0 else "refused"] += 1
        wrong = judge(case, code, text, files)
        failures += [f"{case.kind}: {' '.join(case.words)[:160]!r}: {wrong}"] * bool(wrong)
        if case.suggestion:
            hit = suggested(text) == case.suggestion
            tally[case.kind, "hit" if hit else "miss"] += 1
            if not hit:
                tell(f"{case.words} -> {suggested(text)!r}, wanted {case.suggestion!r}: {text[:200]}")
    return failures, tally


def judge(case: Case, code: object, text: str, files: list[str]) -> str:
    """What is wrong with how a line was answered; empty if nothing is."""
    if files:
        return f"left {files}"
    if "Traceback" in text or "unexpected" in text:
        return f"a traceback or an unexpected error: {text[-300:]}"
    if code != (0 if case.right else 2):
        return f"exit code {code} for a {'right' if case.right else 'wrong'} line: {text[-300:]}"
    return "" if code == 0 or "error: " in text else "refused without a sentence"


def suggested(text: str) -> str:
    """The first suggestion of an answer."""
    found = re.search(r"(?:did you mean|here it is) `?([^`?\s]+)", text)
    return found[1] if found else ""


def send(words: tuple[str, ...]) -> tuple[object, str, list[str]]:
    """Start train.py's door with these words and plan=true in an empty folder: exit code, output, files left there."""
    argv, before = sys.argv, Path.cwd()
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.argv = [str(ROOT / "train.py"), *words, "plan=true"]
        GlobalHydra.instance().clear()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code: object = enter(_door)
        except SystemExit as leaving:
            code = leaving.code
        except BaseException as error:
            code, text = "raised", f"Traceback: {type(error).__name__}: {error}"
            said.write(text)
        finally:
            os.chdir(before)
            sys.argv = argv
            logging.shutdown()
        files = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))
    return code, said.getvalue(), files


@hydra.main(config_path=str(ROOT / "conf"), config_name="config", **HYDRA_KEYWORDS)
def _door(config: DictConfig) -> None:
    Path("training").touch()  # plan=true ends before this


@dataclass(frozen=True, slots=True)
class Names:
    """What there is to mistype: keys, options by group, and all words that would be right after an edit."""

    keys: list[str]
    options: dict[str, list[str]]
    known: set[str]


def read_names() -> Names:
    """Read them from conf/."""
    with initialize_config_dir(config_dir=str(ROOT / "conf"), **COMPOSE_KEYWORDS):
        leaves = _leaves(compose("config"))
        loader = GlobalHydra.instance().config_loader()
        options = {group: loader.get_group_options(group) for group in GROUPS}
    keys = [key for key in leaves if not key.endswith("_") and not key.startswith(("task", "labels", "expect"))]
    return Names(keys, options, {*leaves, *GROUPS})


def key_typo(rng: random.Random, names: Names) -> Case:
    key = rng.choice(names.keys)
    wrong = mutate(rng, key, names.known)
    return Case("key typo", (f"{wrong}=1",), False, key)


def group_typo(rng: random.Random, names: Names) -> Case:
    group = rng.choice(GROUPS)
    wrong = mutate(rng, group, names.known)
    return Case("group typo", (f"{wrong}={rng.choice(names.options[group])}",), False, group)


def option_typo(rng: random.Random, names: Names) -> Case:
    group, option = rng.choice([(group, option) for group in GROUPS for option in names.options[group]])
    wrong = mutate(rng, option, set(names.options[group]))
    return Case("option typo", (f"{group}={wrong}",), False, f"{group}={option}")


def choice_typo(rng: random.Random, names: Names) -> Case:
    del names
    key = rng.choice(list(CHOICES))
    right = rng.choice(list(CHOICES[key]))
    wrong = mutate(rng, right, {*CHOICES[key], "on", "of"})
    return Case("choice typo", (f"{key}={wrong}",), False, right)


def sweep_typo(rng: random.Random, names: Names) -> Case:
    case = rng.choice((key_typo, group_typo, option_typo, choice_typo))(rng, names)
    return Case("typo with -m", ("-m", *case.words), False, case.suggestion)


def several(rng: random.Random, names: Names) -> Case:
    words = [rng.choice((key_typo, option_typo, choice_typo))(rng, names).words[0]]
    words += rng.sample(RIGHT[:6], k=rng.randint(0, 2)) + rng.sample(WRONG[:40], k=rng.randint(0, 2))
    rng.shuffle(words)
    return Case("several at once", tuple(["-m"] * rng.randint(0, 1) + words), False)


def wrong_line(rng: random.Random, names: Names) -> Case:
    del names
    return Case("wrong", (rng.choice(WRONG),), False)


def wrong_sweep(rng: random.Random, names: Names) -> Case:
    del names
    return Case("wrong with -m", ("-m", rng.choice(WRONG_SWEEPS)), False)


def right_line(rng: random.Random, names: Names) -> Case:
    del names
    if rng.random() < 0.5:
        return Case("right", (rng.choice(RIGHT),), True)
    return Case("right with -m", ("-m", rng.choice((*RIGHT_SWEEPS, *WRONG[-4:]))), True)


MAKERS: dict[Callable[[random.Random, Names], Case], int] = {
    **{key_typo: 6, group_typo: 2, option_typo: 2, choice_typo: 2, wrong_line: 3},
    **{sweep_typo: 1, several: 1, wrong_sweep: 2, right_line: 1},
}
"""How a line is made, and how often."""


def mutate(rng: random.Random, text: str, known: set[str]) -> str:
    """One edit: a character too many, too few, another one, or two swapped; never something that is right as well."""
    letters = string.ascii_lowercase + string.digits + "_"
    while True:
        place, letter = rng.randrange(len(text)), rng.choice(letters)
        kind = rng.choice(("insert", "delete", "replace", "swap"))
        if kind == "insert":
            found = text[:place] + letter + text[place:]
        elif kind == "delete":
            found = text[:place] + text[place + 1 :]
        elif kind == "replace":
            found = text[:place] + letter + text[place + 1 :]
        else:
            found = text[:place] + text[place : place + 2][::-1] + text[place + 2 :]
        if found and found not in known:
            return found


def _leaves(config: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for key in config:
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and len(node):
            found += _leaves(node, f"{prefix}{key}.")
        elif key != "hydra":
            found.append(f"{prefix}{key}")
    return found


if __name__ == "__main__":
    main()
