import builtins
import json
from types import SimpleNamespace

import pytest
import torch

from rtx_lab import reopen
from rtx_lab.__main__ import main
from rtx_lab.commands import infer
from rtx_lab.data.tokenizers import load_tokenizer
from rtx_lab.models.connection_transformer import ConnectionTransformer

QUESTION = "inn 3 right of church . where is inn from church ?"
SIZES = {"d_model": 16, "num_slots": 4, "bilinear_rank": 2, "max_reasoning_steps": 3, "max_seq_len": 64, "num_heads": 2}


@pytest.fixture
def loaded(monkeypatch, tmp_path_factory):
    """A small untrained model in place of what stands in the run directory RUN."""
    place = tmp_path_factory.mktemp("runs")
    (place / "RUN").mkdir()
    (place / "RUN" / "config.yaml").touch()
    monkeypatch.chdir(place)
    tokenizer = load_tokenizer("words")
    torch.manual_seed(0)
    model = ConnectionTransformer(vocab_size=tokenizer.vocab_size, **SIZES).eval()
    made = SimpleNamespace(
        model=model, tokenizer=tokenizer, dataset_name="reasoning", max_target_length=5, config={"model": SIZES}
    )

    monkeypatch.setattr(reopen, "load_run", lambda path: made)
    return made


def test_one_text_with_options(loaded, capsys):
    assert main(["infer", "RUN", "--text", QUESTION, "--options", "3 right|2 left|3 left"]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == f"Input: {QUESTION}"
    assert second in ("Output: 3 right", "Output: 2 left", "Output: 3 left")
    steps, most = third.removeprefix("Steps: ").split("/")
    assert 1 <= int(steps) <= int(most) == 3


def test_one_text_written_freely(loaded, capsys):
    assert main(["infer", "RUN", "--text", QUESTION]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("Output:")


def test_the_chosen_option_is_the_likeliest_by_hand(loaded):
    _, found = infer.ask(loaded, QUESTION, ("3 right", "2 left", "12"))
    tokenizer, model = loaded.tokenizer, loaded.model
    source = torch.tensor([tokenizer.encode(QUESTION)])
    scores = []
    with torch.no_grad():
        memory = model.encode(source, torch.ones_like(source, dtype=torch.bool))
        for option in ("3 right", "2 left", "12"):
            ids = tokenizer.encode(option)
            hidden = model.decode(memory, torch.tensor([[tokenizer.start_id, *ids]]))
            log_probs = torch.log_softmax(hidden[0] @ model.output_weight.mT, -1)
            scores.append(sum(log_probs[i, token].item() for i, token in enumerate([*ids, tokenizer.eos_id])))
    assert found.output == ("3 right", "2 left", "12")[scores.index(max(scores))]


def test_the_order_of_options_does_not_matter(loaded):
    options = ("3 right", "2 left", "yes no", "12")
    _, forward = infer.ask(loaded, QUESTION, options)
    _, backward = infer.ask(loaded, QUESTION, options[::-1])
    assert forward == backward


def test_a_model_without_steps_says_so(loaded, capsys):
    infer._show((SimpleNamespace(text="x"), infer.Answer("y", 0, 0)))
    assert capsys.readouterr().out.splitlines()[2] == "Steps: none (this model does not iterate)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text", ""], "the text is empty"),
        (["--text", "inn " * 65], "65 tokens and the model takes 64"),
        (["--text", "Hello World"], "does not know 'Hello', 'World'"),
        (["--text", QUESTION, "--options", "only"], "at least two"),
        (["--file", "nowhere.txt"], "cannot be read"),
        (["--text", QUESTION, "--out", "x"], "--out is where the answers to a --file go"),
        (["--file", "missing.txt", "--out", "x"], "missing.txt cannot be read"),
    ],
)
def test_bad_input_is_a_usage_error(arguments, words, loaded, capsys):
    assert main(["infer", "RUN", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_no_source_or_two_are_usage_errors(capsys):
    assert main(["infer", "RUN"]) == 2
    assert main(["infer", "RUN", "--text", "a", "--interactive"]) == 2
    capsys.readouterr()


def test_a_place_without_a_run_is_one_sentence(loaded, capsys):
    assert main(["infer", "nothing", "--text", QUESTION]) == 2
    assert "there is no run 'nothing': it is not the folder of one" in capsys.readouterr().err


def test_a_part_of_its_name_is_a_run_and_which_one_is_said_beside_the_answer(loaded, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("x-seed0-0123456789ab", "x-seed1-ba9876543210"):
        (tmp_path / "multirun" / "main" / name).mkdir(parents=True)
        (tmp_path / "multirun" / "main" / name / "config.yaml").touch()
    assert main(["infer", "ba98", "--text", QUESTION]) == 0
    told = capsys.readouterr()
    assert told.err == "run: multirun/main/x-seed1-ba9876543210\n"
    assert told.out.startswith("Input: ")


def test_a_file_of_questions(loaded, tmp_path, capsys):
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text(f"{QUESTION}\n\nwhere is inn || yes | no\n")
    arguments = ["infer", "RUN", "--file", str(source), "--out", str(out), "--options", "3 right|2 left"]
    assert main(arguments) == 0
    first, second = map(json.loads, out.read_text().splitlines())
    assert first["input"] == QUESTION
    assert first["options"] == ["3 right", "2 left"]
    assert second["output"] in ("yes", "no")
    assert second["max_steps"] == 3
    assert main(arguments) == 2  # never overwritten
    assert "exists" in capsys.readouterr().err
    assert main([*arguments[:5], str(tmp_path / "nowhere" / "out.jsonl")]) == 2
    assert "make it first" in capsys.readouterr().err
    assert main([*arguments[:4], *arguments[6:]]) == 0  # without --out they are printed
    assert capsys.readouterr().out == out.read_text()


def test_every_wrong_line_is_named_and_nothing_is_written(loaded, tmp_path, capsys):
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text(f"{QUESTION}\nHello\nwhere is inn || yes\n")
    assert main(["infer", "RUN", "--file", str(source), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "line 2: " in error
    assert "line 3: " in error
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe"])
def test_files_without_questions(content, loaded, tmp_path, capsys):
    source = tmp_path / "in.txt"
    source.write_bytes(content)
    assert main(["infer", "RUN", "--file", str(source), "--out", str(tmp_path / "o")]) == 2
    assert str(source) in capsys.readouterr().err


def typed(monkeypatch, *lines):
    """Answer input() with lines; an exception is raised instead."""
    waiting = iter(lines)

    def answer(prompt):
        line = next(waiting)
        if isinstance(line, type):
            raise line
        return line

    monkeypatch.setattr(builtins, "input", answer)


@pytest.mark.parametrize("end", ["quit", "EXIT", EOFError, KeyboardInterrupt])
def test_a_conversation_survives_mistakes_and_ends_cleanly(end, loaded, monkeypatch, capsys):
    typed(monkeypatch, "", "Hello there", f"{QUESTION} || 3 left | 3 right", end)
    assert main(["infer", "RUN", "--interactive"]) == 0
    out = capsys.readouterr().out
    assert "error: the model does not know 'Hello', 'there'" in out
    assert out.count("Output: ") == 1
