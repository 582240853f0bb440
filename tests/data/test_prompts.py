import json
import os
import shutil
from pathlib import Path

import pytest

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data.corpora import gsm8k
from rtx_lab.data.generated import arithmetic, reasoning
from rtx_lab.data.prompts import (
    INSTRUCTION,
    before_stop,
    prompt_frame,
    prompted,
    resolve_template,
    stop_ids,
    stop_texts,
)
from rtx_lab.data.tokenizers import SHIPPED_FOLDERS, STAND_IN, load_tokenizer

TOKENIZERS, DATA, MODELS = (os.environ.get(f"RTX_LAB_{name}") for name in ("TOKENIZERS", "DATA", "MODELS"))
needs_qwen = pytest.mark.skipif(not TOKENIZERS, reason="RTX_LAB_TOKENIZERS is not set")
needs_gsm8k = pytest.mark.skipif(not (TOKENIZERS and DATA), reason="RTX_LAB_TOKENIZERS or RTX_LAB_DATA is not set")
needs_models = pytest.mark.skipif(not MODELS, reason="RTX_LAB_MODELS is not set")
CHATML = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim }}"
    "{{ '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>\\n\\n' }}"
    "{%- endif %}{%- endif %}"
)
ANSWER = "Tom has 48/2 = <<48/2=24>>24 cups.\nHe sells 24*.5 = <<24*.5=12>>12.\n#### 1,012"


def problems(folder, **settings):
    """Two rows of GSM8K's form over an open vocabulary that the project ships."""
    rows = [
        {"question": "How many cups has Tom ?", "answer": ANSWER},
        {"question": "And Ann ? " * 30, "answer": ANSWER},
    ]
    (folder / "gsm8k").mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        (folder / "gsm8k" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "tokenizer": "dialogues",
        "vocab_size": 2000,
        "max_target_length": 200,
        "target": "rationale",
    } | settings
    splits = {name: name for name in ("train", "validation", "test")}
    return gsm8k(path=str(folder), splits=splits, rows=dict.fromkeys(splits, 2), **settings)


def chatting(folder, template, in_file=False):
    """The shipped tokenizer with a chat template beside it."""
    shutil.copytree(SHIPPED_FOLDERS["dialogues"], folder, dirs_exist_ok=True)
    config = folder / "tokenizer_config.json"
    known = json.loads(config.read_text()) if config.is_file() else {}
    if in_file:
        (folder / "chat_template.jinja").write_text(template)
    else:
        config.write_text(json.dumps(known | {"chat_template": template}))
    return load_tokenizer(str(folder))


def test_plain_prompts_end_where_the_answer_begins(tmp_path):
    split = prompted(problems(tmp_path), "plain", "strip").split("train")
    assert split.record(0)["source"] == f"{INSTRUCTION}\n\nQuestion: How many cups has Tom ?\nAnswer:\n"
    tokenizer = load_tokenizer("dialogues")
    assert split.source(0).tolist() == tokenizer.encode(split.record(0)["source"])
    assert tokenizer.decode(split.target(0)) == "Tom has 48/2 = 24 cups.\nHe sells 24*.5 = 12.\n#### 1012"
    assert split.record(0)["gold"] == "1012"


def test_the_calculator_marks_are_kept_when_asked_for(tmp_path):
    split = prompted(problems(tmp_path), "plain", "keep").split("train")
    assert load_tokenizer("dialogues").decode(split.target(0)) == ANSWER.replace("1,012", "1012")


def test_a_question_that_is_too_long_loses_its_beginning_and_no_template(tmp_path):
    split = prompted(problems(tmp_path, max_source_length=100), "plain", "strip").split("train")
    text = load_tokenizer("dialogues").decode(split.source(1))
    assert len(split.source(1)) == 100
    assert text.startswith(f"{INSTRUCTION}\n\nQuestion: ")
    assert text.endswith("And Ann ?\nAnswer:\n") or text.endswith("And Ann ? \nAnswer:\n")
    assert split.num_cut_sources == 1


def test_every_template_and_calculator_is_a_dataset_of_its_own(tmp_path):
    plain = problems(tmp_path)
    kinds = [(template, marks) for template in ("plain", "none") for marks in ("strip", "keep")]
    digests = {prompted(plain, *kind).digest() for kind in kinds}
    assert len(digests | {plain.digest()}) == 5
    assert prompted(plain, "auto", "strip").digest() == prompted(plain, "plain", "strip").digest()


def test_the_closed_vocabulary_gets_its_questions_as_they_are():
    plain = arithmetic(num_train=20, num_validation=5, num_test=5)
    dataset = prompted(plain, "auto", "keep")
    for row in range(20):
        assert (dataset.split("train").source(row) == plain.split("train").source(row)).all()
        assert (dataset.split("train").target(row) == plain.split("train").target(row)).all()
    assert dataset.num_rows("train") == 20


@pytest.mark.parametrize(
    ("name", "template", "resolved"),
    [
        ("words", "auto", "none"),
        ("stories", "auto", "none"),
        ("dialogues", "auto", "plain"),
        ("dialogues", "none", "none"),
        (STAND_IN, "auto", "none"),
        (STAND_IN, "chat", "none"),
    ],
)
def test_which_template_is_taken(name, template, resolved):
    assert resolve_template(load_tokenizer(name), template) == resolved


def test_answers_end_where_another_question_begins():
    tokenizer = load_tokenizer("dialogues")
    stops = stop_texts(tokenizer, "auto")
    assert before_stop("It is 3.\n#### 3\nQuestion: What", stops) == "It is 3.\n#### 3"
    assert before_stop("It is 3.", stops) == "It is 3."
    assert stop_texts(tokenizer, "none") == ()
    assert stop_ids(tokenizer, "auto") == (tokenizer.eos_id,)


@pytest.mark.parametrize(
    ("template", "calculator", "settings", "words"),
    [
        ("fancy", "strip", {}, "task.template must be one of auto, chat, plain, none, not 'fancy'"),
        ("plain", "drop", {}, "task.calculator must be one of strip, keep, not 'drop'"),
        ("chat", "strip", {}, "has no chat template: set task.template=plain"),
        ("plain", "strip", {"tokenizer": "words"}, "cannot spell the plain template"),
        ("none", "keep", {"tokenizer": "words"}, "cannot spell <<48/2=24>>: set task.calculator=strip"),
        ("plain", "keep", {"target": "final"}, "set dataset.target=rationale"),
        ("plain", "strip", {"max_source_length": 50}, "leaves fewer than 16 of dataset.max_source_length=50"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_sentence(tmp_path, template, calculator, settings, words):
    with pytest.raises(UsageError, match=words):
        prompted(problems(tmp_path, **settings), template, calculator)


def test_questions_with_options_are_refused():
    with pytest.raises(UsageError, match="worked solutions need gsm8k or arithmetic"):
        prompted(reasoning(num_train=8, num_validation=8, num_test=8), "auto", "strip")


@pytest.mark.parametrize("in_file", [False, True])
def test_a_chat_template_writes_the_prompt(tmp_path, in_file):
    tokenizer = chatting(tmp_path / "chat", CHATML, in_file)
    before, after = prompt_frame(tokenizer, "auto")
    assert before == f"<|im_start|>user\n{INSTRUCTION}\n\n"
    assert after == "<|im_end|>\n<|im_start|>assistant\n<think></think>\n\n"
    assert tokenizer.digest == load_tokenizer("dialogues").digest
    split = prompted(problems(tmp_path, tokenizer=str(tmp_path / "chat")), "auto", "strip").split("train")
    assert split.record(0)["source"] == f"{before}How many cups has Tom ?{after}"


def test_a_template_in_a_file_of_its_own_comes_first_and_of_named_ones_the_default(tmp_path):
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": CHATML}]
    assert chatting(tmp_path, named).chat_template == CHATML
    assert chatting(tmp_path, "{{ 'other' }}", in_file=True).chat_template == "{{ 'other' }}"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(RunError, match="cannot be read"):
        load_tokenizer(str(tmp_path))


def test_a_prompt_does_not_change_overnight(tmp_path):
    dated = "\n  {%- if true %}{{ strftime_now('%d %B %Y') }} {% endif %}{{ messages[0].content }}"
    before, _ = prompt_frame(chatting(tmp_path, dated), "chat")
    assert before == f"26 Jul 2024 {INSTRUCTION}\n\n"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0].content }}{{ messages[0].content }}", "exactly once"),
        ("{{ 'hello' }}", "exactly once"),
        ("{% if %}", "chat template fails"),
        ("{{ raise_exception('no users here') }}", r"chat template fails \(no users here\)"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_one_sentence(tmp_path, template, words):
    with pytest.raises(UsageError, match=words) as caught:
        prompt_frame(chatting(tmp_path, template), "chat")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """Qwen's tokenizer with a chat template, whose closing token is made another than the end."""
    folder = tmp_path_factory.mktemp("qwen")
    load_tokenizer("qwen2").backend.save(str(folder / "tokenizer.json"))
    config = json.loads((Path(TOKENIZERS or "") / "qwen2" / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<|endoftext|>"}))
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


@needs_qwen
def test_chat_prompts_are_what_transformers_writes(qwen):
    from transformers import AutoTokenizer

    tokenizer, theirs = load_tokenizer(str(qwen)), AutoTokenizer.from_pretrained(qwen)
    before, after = prompt_frame(tokenizer, "auto")
    question = "How many clips did she sell in 3.5 hours?"
    chat = [{"role": "user", "content": f"{INSTRUCTION}\n\n{question}"}]
    settings = {"add_generation_prompt": True, "enable_thinking": False}
    assert before + question + after == theirs.apply_chat_template(chat, tokenize=False, **settings)
    ids = theirs.apply_chat_template(chat, tokenize=True, return_dict=True, **settings)["input_ids"]
    assert tokenizer.encode(before + question + after) == ids
    end, closing = stop_ids(tokenizer, "chat")
    assert [tokenizer.backend.id_to_token(index) for index in (end, closing)] == ["<|endoftext|>", "<|im_end|>"]


@needs_gsm8k
@pytest.mark.parametrize("template", ["plain", "chat"])
def test_prompt_and_answer_encoded_apart_are_the_text_encoded_whole(qwen, template):
    splits = {"train": "train", "test": "test"}
    dataset = gsm8k(
        splits=splits, tokenizer=str(qwen), vocab_size=151936, max_source_length=512, max_target_length=512,
        target="rationale",
    )  # fmt: skip
    split = prompted(dataset, template, "strip").split("test")
    assert len(split) == 1319
    assert split.num_cut_sources == split.num_cut_targets == 0
    for row in range(0, len(split), 13):
        apart = [*split.source(row), *split.target(row)]
        whole = split.record(row)["source"] + dataset.tokenizer.decode(split.target(row))
        assert dataset.tokenizer.encode(whole) == apart


@needs_models
def test_a_tokenizer_with_a_start_token_gets_one():
    tokenizer = load_tokenizer(str(Path(MODELS or "") / "stories260K"))
    before, after = prompt_frame(tokenizer, "auto")
    ids = tokenizer.encode(f"{before}Who?{after}")
    assert ids[0] == tokenizer.start_id
    assert tokenizer.start_id not in ids[1:]
    assert ids[1:] == tokenizer.encode(f"{before.removeprefix('<s>')}Who?{after}")
