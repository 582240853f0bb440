"""The README is true: its commands compose, its overrides exist, its trees and tables are those of the project."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from rtx_lab.__main__ import COMMANDS
from rtx_lab.core.schema import settle
from rtx_lab.sweep.door import COMPOSE_KEYWORDS

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "README.ko.md")


def _text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def _blocks(page):
    return re.findall(r"```bash\n(.*?)```", _text(page), flags=re.DOTALL)


def _commands(page):
    for block in _blocks(page):
        for line in block.splitlines():
            for command in line.split("#")[0].split("&&"):
                if command.strip():
                    yield command.strip()


def _settles(overrides):
    points = [[]]
    for override in OverridesParser.create().parse_overrides(overrides):
        values = (
            list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.get_value_string()]
        )
        points = [[*point, f"{override.key_or_group}={value}"] for point in points for value in values]
    with initialize_config_dir(config_dir=str(ROOT / "conf"), **COMPOSE_KEYWORDS):
        return [settle(compose("config", overrides=point)) for point in points]


@pytest.mark.parametrize("page", PAGES)
def test_every_training_command_composes(page):
    seen = 0
    for command in _commands(page):
        if "train.py" in command:
            words = shlex.split(command)
            overrides = [word for word in words[words.index("train.py") + 1 :] if "=" in word and "RUN" not in word]
            assert _settles(overrides)
            seen += 1
    assert seen >= 10


@pytest.mark.parametrize("page", PAGES)
def test_every_other_command_exists(page):
    names = [re.search(r"-m rtx_lab (\w+)", command) for command in _commands(page)]
    found = {match[1] for match in names if match}
    assert found == {"infer", "export", "doctor", "status", "report", "reproduce"} <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_every_remedy_is_an_override_that_settles(page):
    rows = [
        line for line in _text(page).splitlines() if line.startswith("|") and re.search(r"`[\w.]+=[^`]+` \|$", line)
    ]
    remedies = [re.findall(r"`([\w./]+=[^`]+)`", row)[-1] for row in rows]
    assert len(remedies) >= 14
    for remedy in remedies:
        assert _settles([remedy])


def test_the_source_tree_is_there():
    tree = re.search(r"## Source tree\n\n```\n(.*?)```", _text("README.md"), flags=re.DOTALL)
    assert tree
    folder, seen = Path(), 0
    for line in tree[1].splitlines():
        name = line.split()[0]
        folder = Path() if not line.startswith(" ") else folder
        assert (ROOT / folder / name).exists(), line
        folder = Path(name) if line.startswith("rtx_lab/") else folder
        seen += 1
    assert seen > 15


@pytest.mark.parametrize("group", ["model", "dataset", "phase"])
def test_the_tables_name_every_option(group):
    for option in (ROOT / "conf" / group).glob("*.yaml"):
        assert f"| `{option.stem}`" in _text("README.md"), option


def test_every_yaml_header_command_names_options_that_exist():
    for path in (ROOT / "conf").glob("*/*.yaml"):
        header = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
        for group, option in re.findall(r"\b(model|dataset|hardware|optim|phase)=([a-z][\w.]*\w)", header):
            assert (ROOT / "conf" / group / f"{option}.yaml").exists(), f"{path}: {group}={option}"
        assert yaml.safe_load(path.read_text()) is not None
