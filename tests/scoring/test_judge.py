"""A real causal language model as judge: the original scores as the original, batches do not matter."""

import os
from pathlib import Path

import pytest
import torch

from rtx_lab.core.errors import RunError
from rtx_lab.scoring import judge

TEXTS = ["Once upon a time there was a little dog .", "She ran", "The sun was big and Lily went to the park to play ."]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small Llama with random weights and a tokenizer, or a pretrained one where RTX_LAB_JUDGE names it."""
    given = os.environ.get("RTX_LAB_JUDGE")
    if given and Path(given).is_dir():
        return given
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("judge")
    words = sorted({word for text in TEXTS for word in text.split()} | {"cat", "<unk>", "<s>"})
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return str(folder)


def test_a_text_that_equals_its_original_scores_exactly_as_the_original(place):
    rated = judge.open_judge(place)(TEXTS, TEXTS)
    assert rated["perplexity"] == pytest.approx(rated["reference_perplexity"], rel=1e-6)
    assert rated["similarity"] == pytest.approx(1.0, abs=1e-5)


def test_a_changed_text_is_less_alike(place):
    changed = [TEXTS[0].replace("dog", "park"), TEXTS[1], TEXTS[2].replace("sun", "dog").replace("park", "time")]
    assert judge.open_judge(place)(changed, TEXTS)["similarity"] < 0.999


def test_perplexity_counts_tokens_and_not_texts(place):
    model, tokenizer = judge._load(place)
    nll = count = 0.0
    for text in TEXTS:  # one by one, without padding
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            log_p = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])
        nll, count = nll - float(log_p.double().sum()), count + ids.shape[1] - 1
    expected = float(torch.tensor(nll / count).exp())
    assert judge.open_judge(place)(TEXTS, TEXTS)["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_what_is_no_model_is_one_sentence(tmp_path):
    with pytest.raises(RunError, match=r"dataset\.judge=.* cannot be read as a causal language model"):
        judge.open_judge(str(tmp_path))
