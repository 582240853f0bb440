"""A causal language model as a judge of texts: how fluent they are, and how close to their originals in meaning.

Any folder or hub id that transformers' AutoModelForCausalLM reads. All texts of all models are scored as the same
strings by the same judge, so that a text that equals its original scores exactly as the original does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rtx_lab.core.errors import RunError

BATCH = 16


def open_judge(place: str) -> Callable[[Sequence[str], Sequence[str]], dict[str, float]]:
    """Load a judge; it turns texts and their originals into perplexity, reference_perplexity and similarity.

    Perplexity is over all tokens of all texts, not a mean of the texts' own. Similarity is the F1 of greedy matching
    by the cosine of last hidden states, averaged over texts: BERTScore (Zhang et al. 2020) with this model's states.
    Raises RunError where the model cannot be read.
    """
    model, tokenizer = _load(place)

    def rate(texts: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
        ours, theirs = _read(model, tokenizer, texts), _read(model, tokenizer, golds)
        scores = [_f1(a, b) for (_, _, a), (_, _, b) in zip(ours, theirs, strict=True)]
        return {
            "perplexity": _perplexity(ours),
            "reference_perplexity": _perplexity(theirs),
            "similarity": math.fsum(scores) / max(1, len(scores)),
        }

    return rate


def _load(place: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        model: Any = AutoModelForCausalLM.from_pretrained(place).eval()
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(
            f"dataset.judge={place} cannot be read as a causal language model ({first}): name a folder or hub id "
            "that holds one, or leave it null"
        ) from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


@torch.inference_mode()
def _read(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[tuple[float, int, Tensor]]:
    """Of each text: its summed -log p after the first token, the tokens that counts, and its unit states (T, D)."""
    limit = getattr(model.config, "max_position_embeddings", None) or 1024
    ids = [tokenizer(text)["input_ids"][:limit] for text in texts]
    found: list[tuple[float, int, Tensor]] = []
    for start in range(0, len(ids), BATCH):
        found += _read_batch(model, ids[start : start + BATCH])
    return found


def _read_batch(model: Any, ids: Sequence[list[int]]) -> list[tuple[float, int, Tensor]]:
    longest = max(1, *(len(one) for one in ids))
    tokens = torch.zeros(len(ids), longest, dtype=torch.int64, device=model.device)
    real = torch.zeros_like(tokens)
    for row, one in enumerate(ids):
        tokens[row, : len(one)] = torch.tensor(one)
        real[row, : max(1, len(one))] = 1
    out = model(input_ids=tokens, attention_mask=real, output_hidden_states=True)
    log_p = out.logits[:, :-1].float().log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    nll = -(log_p * real[:, 1:]).double().sum(1)
    states = torch.nn.functional.normalize(out.hidden_states[-1].float(), dim=-1)
    return [(float(nll[row]), max(0, len(one) - 1), states[row, : max(1, len(one))]) for row, one in enumerate(ids)]


def _perplexity(read: Sequence[tuple[float, int, Tensor]]) -> float:
    tokens = sum(count for _, count, _ in read)
    return math.exp(min(700.0, math.fsum(nll for nll, _, _ in read) / tokens)) if tokens else math.nan


def _f1(left_TD: Tensor, right_UD: Tensor) -> float:
    cosine_TU = left_TD @ right_UD.T
    precision, recall = float(cosine_TU.amax(1).mean()), float(cosine_TU.amax(0).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
