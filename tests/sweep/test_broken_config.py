"""A file below conf/ that a user broke: one sentence with its name and line, whatever is typed beside it."""

import shutil

import pytest
from tiny_runs import ROOT

SMOKE = "phase/smoke.yaml"


@pytest.fixture
def broken(tmp_path):
    """Copy conf/ and put `new` for `old` in one of its files; return the folder and the line where that was."""

    def change(name, old, new):
        shutil.copytree(ROOT / "conf", tmp_path / "conf")
        path = tmp_path / "conf" / name
        text = path.read_text()
        assert text.count(old) == 1
        path.write_bytes(text.encode().replace(old.encode(), new if isinstance(new, bytes) else new.encode()))
        return tmp_path / "conf", text[: text.index(old)].count("\n") + 1

    return change


DATASET = "  - dataset: reasoning"


@pytest.mark.parametrize(
    ("name", "old", "new", "shift", "words", "arguments"),
    [
        ("config.yaml", DATASET, "  - dataset: {reasoning", 1, "is not YAML (expected", []),
        ("config.yaml", DATASET, "\t- dataset: reasoning", 0, "is not YAML (found character", ["-m", "seed=1,2"]),
        ("config.yaml", DATASET, "  - dataset: reasonin", 0, "Could not find 'dataset/reasonin'", ["seed=3"]),
        ("config.yaml", DATASET, f"{DATASET}\n    more: x", 0, "Too many keys in default item", []),
        ("config.yaml", DATASET, f"{DATASET}\n  - dataset: gsm8k", 0, "Multiple values for dataset", []),
        ("config.yaml", "  job: {", "  jobs: {", 0, "Key 'jobs' not in 'HydraConf'", ["model.num_slot=3"]),
        ("config.yaml", "hydra:\n", "budget: {stpes: 3}\nhydra:\n", 0, "Key 'stpes' not in 'Budget'", []),
        ("config.yaml", "# Every", b"# \xff Every", 0, "is not UTF-8", []),
        (SMOKE, "budget: {", "budget: [", 0, "is not YAML", ["phase=smoke"]),
        (SMOKE, "steps: 2", "steps: x", 0, "Value 'x' of type 'str' could not be converted", ["phase=smoke"]),
        (SMOKE, "{steps: 2", "{stps: 2", 0, "Key 'stps' not in 'Budget'", ["-m", "phase=smoke", "seed=1,2"]),
    ],
)
def test_a_broken_file_is_named_with_its_line(command, broken, tmp_path, name, old, new, shift, words, arguments):
    folder, line = broken(name, old, new)
    code, text = command("-cp", str(folder), *arguments)
    assert code == 2, text
    assert text.startswith(f"error: conf/{name}:{line + shift} "), text
    assert words in text
    assert text.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["conf"]


def test_what_tells_no_line_is_one_sentence_all_the_same(command, broken):
    folder, _ = broken("config.yaml", DATASET, "  - dataset: 3")
    code, text = command("-cp", str(folder))
    assert code == 2
    assert text.startswith("error: conf/config.yaml cannot be composed: Unsupported item value in defaults")
    assert text.count("\n") == 1
