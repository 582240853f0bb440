"""Runs are found by what `status` prints of them: a folder, a signature, words or a beginning of the name."""

from pathlib import Path

import pytest

from rtx_lab.commands.places import SETTING_PARTS, find_run, match, name_folders, nearest, shared_start
from rtx_lab.core.errors import UsageError

NAMES = {
    "rank": ["ct-diag-n64-d256-r8-logiqa-seed0-30fe819ab836", "ct-diag-n64-d256-r16-logiqa-seed1-15cd68658bc7"],
    "nd_ratio": ["ct-diag-n128-d256-r8-logiqa-seed1-ee1fce161b43", "ct-diag-n128-d256-r8-logiqa-seed10-84513c5599a7"],
    "main": ["tb-d256-gsm8k-seed0-d808db2cff52"],
}
FIRST = Path("multirun/rank", NAMES["rank"][0])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a multirun of five runs."""
    monkeypatch.chdir(tmp_path)
    for phase, names in NAMES.items():
        for name in names:
            make(Path("multirun", phase, name))
    return tmp_path


def make(folder, mark="config.yaml"):
    folder.mkdir(parents=True)
    (folder / mark).touch()


@pytest.mark.parametrize(
    "text",
    [
        "multirun/rank/ct-diag-n64-d256-r8-logiqa-seed0-30fe819ab836",
        "multirun/rank/ct-diag-n64-d256-r8-logiqa-seed0-30fe819ab836/",
        "./multirun/rank/../rank/ct-diag-n64-d256-r8-logiqa-seed0-30fe819ab836",
        "rank/ct-diag-n64-d256-r8-logiqa-seed0-30fe819ab836",
        "ct-diag-n64-d256-r8-logiqa-seed0-30fe819ab836",
        "ct-diag-n64-d256-r8-logiqa-seed0",
        "ct-diag-n64-d256-r8",
        "30fe819ab836",
        "30fe",
        "3",
        "seed0-30fe819ab836",
        "r8-logiqa-seed0",
        "ct...seed0-30fe819ab836",
        "ct-diag...r8...seed0-30fe819ab836",
        "ct-diag…30fe819ab836",
        "rank/seed0",
        "multirun/rank/seed0",
        "multirun/30f",
    ],
)
def test_every_way_to_name_one_run(here, text, capsys):
    found = find_run(text).path
    assert found.resolve() == FIRST.resolve()
    assert capsys.readouterr().err == ("" if Path(text).is_dir() else f"run: {found}\n")


def test_whole_words_come_before_beginnings_of_them(here):
    assert find_run("nd_ratio/seed1").path.name == NAMES["nd_ratio"][0]
    assert find_run("nd_ratio/seed10").path.name == NAMES["nd_ratio"][1]
    assert find_run("d8").path.name == NAMES["main"][0], "a signature, though d256 is in every name"


def test_a_folder_with_one_run_is_that_run_and_a_run_need_not_lie_in_multirun(here, monkeypatch):
    assert find_run("main").path.name == NAMES["main"][0]
    make(Path("elsewhere/x-seed3-aaaabbbbcccc"))
    assert find_run("elsewhere/x-seed3-aaaabbbbcccc").path == Path("elsewhere/x-seed3-aaaabbbbcccc")
    assert find_run("elsewhere/seed3").path == Path("elsewhere/x-seed3-aaaabbbbcccc")
    assert find_run("elsewhere").path == Path("elsewhere/x-seed3-aaaabbbbcccc")
    assert find_run("x-seed3", Path("elsewhere")).path == Path("elsewhere/x-seed3-aaaabbbbcccc")
    monkeypatch.chdir("multirun/rank")
    assert find_run("30fe").path == Path(NAMES["rank"][0])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed1", "'seed1' could be any of 2 runs below multirun: nd_ratio/n128-d256-r8-logiqa-seed1-ee1fce161b43, "
                  "rank/n64-d256-r16-logiqa-seed1-15cd68658bc7; say more of the name, or its signature"),
        ("rank", "'rank' could be any of 2 runs below multirun: r16-logiqa-seed1-15cd68658bc7, "
                 "r8-logiqa-seed0-30fe819ab836; say more of the name, or its signature"),
        ("30fe819ab837", "there is no run '30fe819ab837' below multirun: "
                         "did you mean 'ct-diag-n64-d256-r8-logiqa-seed0-30fe819ab836'?"),
        ("ct-dag-n128-d256-r8-logiqa-seed10", f"did you mean '{NAMES['nd_ratio'][1]}'?"),
        ("tb-d256-gsm8k-sed0", "did you mean 'tb-d256-gsm8k-seed0-d808db2cff52'?"),
        ("rnk/30fe", "did you mean 'ct-diag-n64-d256-r8-logiqa-seed0-30fe819ab836'?"),
        ("zzzz", "there is no run 'zzzz' below multirun: `python -m rtx_lab status multirun` lists them"),
        ("n12", "did you mean 'ct-diag-n128"),
        ("", "the name of a run is empty"),
        (" ", "the name of a run is empty"),
        ("...", "there is no run '...'"),
        ("(", "there is no run '('"),
        ("x" * 5000, "there is no run"),
        ("\0", "there is no run"),
    ],
)  # fmt: skip
def test_what_names_no_run_or_several_is_one_sentence(here, text, sentence):
    with pytest.raises(UsageError) as caught:
        find_run(text)
    assert sentence in str(caught.value)
    assert len(caught.value.problems) == 1


def test_at_most_eight_candidates_are_named_and_each_of_them_is_an_answer(here):
    for seed in range(11):
        make(Path(f"multirun/many/y-a-b-seed{seed}-{seed:012x}"))
    with pytest.raises(UsageError) as caught:
        find_run("y-a")
    listed = str(caught.value).partition("below multirun: ")[2].partition(" and 3 more")[0].split(", ")
    assert len(listed) == 8
    assert [find_run(name).path.name for name in listed] == [f"y-a-b-{name}" for name in listed]


def test_runs_that_cannot_be_opened_say_so(here):
    make(Path("multirun/main/z-seed0-aaaabbbbcccc"), "plan.json")
    with pytest.raises(UsageError, match="has not begun"):
        find_run("aaaa")
    Path("empty").mkdir()
    with pytest.raises(UsageError, match="empty is not the folder of a run and there is none in it"):
        find_run("empty")
    with pytest.raises(UsageError, match="there is no folder nowhere here"):
        find_run("x", Path("nowhere"))
    with pytest.raises(UsageError, match="there is no run 'x' below empty: there is none at all"):
        find_run("x", Path("empty"))


def test_an_exported_model_is_taken_by_its_folder_and_found_by_no_name(here):
    make(Path("multirun/main/exported"))
    Path("multirun/main/exported/config.json").touch()
    assert find_run("multirun/main/exported").path == Path("multirun/main/exported")
    with pytest.raises(UsageError):
        find_run("zzz", Path("multirun/main/exported"))


def test_a_part_of_a_setting_cuts_no_number():
    labels = ["N=64 (4to1_compression), tau=0.01", "N=128, tau=0.1", "N=128, tau=0.01, fixed 4 steps"]
    assert match("N=64", labels, SETTING_PARTS) == [0]
    assert match("4to1", labels, SETTING_PARTS) == [0]
    assert match("N=12", labels, SETTING_PARTS) == []
    assert match("tau=0", labels, SETTING_PARTS) == []
    assert match("tau=0.1", labels, SETTING_PARTS) == [1]
    assert match("N=128, tau=0.01", labels, SETTING_PARTS) == [2]


def test_names_are_said_without_what_all_begin_with():
    assert shared_start([]) == ""
    assert shared_start(["a-b-seed0-x", "a-b-seed1-y"]) == "a-b-"
    assert shared_start(["a-b-seed0-x", "ab-b-seed0-y"]) == ""
    assert shared_start(["a-b-seed0-x"]) == "a-b-", "the seed and the signature are left"
    assert shared_start(["run", "run"]) == ""
    assert name_folders([Path("p/a-b-x-1"), Path("q/a-b-y-1")]) == ["p/x-1", "q/y-1"]


def test_the_nearest_is_found_among_ten_thousand():
    names = [
        f"ct-n{n}-d256-r{r}-gsm8k-seed{seed}-{n * r * seed:012x}"
        for n in range(25)
        for r in range(20)
        for seed in range(20)
    ]
    assert nearest("ct-n7-d256-r3-gsm8k-sed19", names) == f"ct-n7-d256-r3-gsm8k-seed19-{7 * 3 * 19:012x}"
    assert nearest("ct-n7-d256-r3-gsm8k-seed19-00000000018e", names) == "ct-n7-d256-r3-gsm8k-seed19-00000000018f"
