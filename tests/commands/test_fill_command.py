"""`infer` with a denoiser: what is given stays, what is hidden is guessed, and every mistake is one sentence."""

import builtins
import json
from types import SimpleNamespace

import pytest
import torch

from rtx_lab import reopen
from rtx_lab.__main__ import main
from rtx_lab.data.tokenizers import load_tokenizer
from rtx_lab.models.masked_lm import MaskedLanguageModel
from rtx_lab.models.rdt import RecursiveDenoiser

TEXT = "ben the lazy [MASK] liked bones . he [MASK] his coat ."
SIZES = {"d_model": 16, "n_heads": 2, "d_ff": 32, "n_encoder_layers": 1, "dropout": 0.0, "max_seq_len": 24}
KINDS = {
    "rdt": lambda v: RecursiveDenoiser(vocab_size=v, max_steps=5, threshold=0.0, **SIZES),
    "mlm": lambda v: MaskedLanguageModel(vocab_size=v, **SIZES),
    "cmlm": lambda v: MaskedLanguageModel(vocab_size=v, objective="cmlm", num_iterations=3, **SIZES),
    "mdlm": lambda v: MaskedLanguageModel(vocab_size=v, objective="mdlm", num_sampling_steps=4, **SIZES),
}


def place_a_run(monkeypatch, folder, kind):
    (folder / "RUN").mkdir(exist_ok=True)
    (folder / "RUN" / "config.yaml").touch()
    monkeypatch.chdir(folder)
    tokenizer = load_tokenizer("stories")
    torch.manual_seed(1)
    model = KINDS[kind](tokenizer.vocab_size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    made = SimpleNamespace(
        model=model, tokenizer=tokenizer, dataset_name="stories", max_target_length=1, config={"model": SIZES}
    )
    monkeypatch.setattr(reopen, "load_run", lambda path: made)
    return made


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    return place_a_run(monkeypatch, tmp_path, "rdt")


@pytest.mark.parametrize("kind", KINDS)
def test_given_words_stay_and_hidden_ones_are_guessed(monkeypatch, tmp_path, capsys, kind):
    place_a_run(monkeypatch, tmp_path, kind)
    assert main(["infer", "RUN", "--text", TEXT]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == f"Input: {TEXT}"
    asked, said = TEXT.split(), second.removeprefix("Output: ").split()
    assert len(said) == len(asked)
    assert all(word in ("[MASK]", guess) for word, guess in zip(asked, said, strict=True))
    assert "[MASK]" not in said
    steps, most = map(int, third.removeprefix("Steps: ").split("/"))
    assert 1 <= steps <= most == {"rdt": 5, "mlm": 1, "cmlm": 3, "mdlm": 4}[kind]


@pytest.mark.parametrize("option", ["--max-steps", "--max_steps"])
def test_more_steps_and_another_threshold_can_be_asked_for(loaded, capsys, option):
    assert main(["infer", "RUN", "--text", TEXT, option, "30", "--threshold", "0"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "Steps: 30/30"
    assert main(["infer", "RUN", "--text", TEXT, option, "30", "--threshold", "0.999"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "Steps: 1/30"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_what_each_text_gives_alone(monkeypatch, tmp_path, capsys, kind):
    place_a_run(monkeypatch, tmp_path, kind)
    texts = [TEXT, "she saw a [MASK] .", "the [MASK] [MASK] was sad . she saw the cat ."]
    (tmp_path / "in.txt").write_text("\n\n".join(texts) + "\n")
    assert main(["infer", "RUN", "--file", "in.txt", "--out", "out.jsonl"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["input"] for row in rows] == texts
    capsys.readouterr()
    for text, row in zip(texts, rows, strict=True):
        assert main(["infer", "RUN", "--text", text]) == 0
        _, output, steps = capsys.readouterr().out.splitlines()
        assert output == f"Output: {row['output']}"
        assert steps == f"Steps: {row['steps']}/{row['max_steps']}"


def test_a_conversation_shows_every_step_and_explains_mistakes(loaded, capsys, monkeypatch):
    lines = iter(["she saw a [MASK] .", "", "no mask", "quit"])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(lines))
    assert main(["infer", "RUN", "--interactive", "--threshold", "0"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[1:6]] == ["1", "2", "3", "4", "5"]
    assert "Steps: 5/5" in said
    assert "error:" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text", "she saw a cat ."], "nothing is to be guessed: write [MASK] for each hidden word"),
        (["--text", "she saw a [mask] ."], "a hidden word is written [MASK], in capitals"),
        (["--text", "  "], "the text is empty"),
        (["--text", "a zebra saw [MASK] ."], "the model does not know 'zebra'"),
        (["--text", "cat " * 30 + "[MASK]"], "the text has 33 tokens and the model takes 24: shorten it"),
        (["--text", TEXT, "--threshold", "2"], "--threshold is the share of noise left"),
        (["--text", TEXT, "--max-steps", "0"], "--max-steps must be at least 1, got 0"),
        (["--text", TEXT, "--options", "a|b"], "--options is for runs that answer questions"),
    ],
)
def test_a_mistake_is_one_sentence(loaded, capsys, arguments, words):
    assert main(["infer", "RUN", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_every_wrong_line_of_a_file_is_named_and_nothing_is_written(loaded, capsys, tmp_path):
    (tmp_path / "in.txt").write_text("she saw a cat .\nshe saw a [MASK] .\na zebra [MASK]\n")
    assert main(["infer", "RUN", "--file", "in.txt", "--out", "out.jsonl"]) == 2
    said = capsys.readouterr().err
    assert "line 1: nothing is to be guessed" in said
    assert "line 3: the model does not know 'zebra'" in said
    assert not (tmp_path / "out.jsonl").exists()


def test_a_single_pass_has_no_steps_to_set(monkeypatch, tmp_path, capsys):
    place_a_run(monkeypatch, tmp_path, "mlm")
    assert main(["infer", "RUN", "--text", TEXT, "--max-steps", "3"]) == 2
    assert "for recursive denoisers" in capsys.readouterr().err
