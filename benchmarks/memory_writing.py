"""Writing with latents: one place a step on caches, against reading the whole text again for every token.

    python benchmarks/memory_writing.py [--quick] [--context shared_kv] [--rows 4] [--tokens 200] [--repeats 3]

Random weights, float32; no stop token, so that every answer has all its tokens. Eight latents stand behind the prompt
and behind the first five ends of sentences. `again` is the original's way: no cache, the texts padded in front to a
rectangle, and the weaver reads the whole text as well. Both write the same tokens. Bar: 5x for 200 tokens.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from rtx_lab.data.delimiters import Delimiters
from rtx_lab.inference import choices, latents
from rtx_lab.inference.latent_rows import Limits
from rtx_lab.inference.latent_writing import write
from rtx_lab.models.latent_memory import CONTEXTS, LatentMemory

SHAPES: dict[str, dict[str, Any]] = {
    "memgen_tiny": {
        "architecture": "llama", "d_model": 96, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "d_ff": 256,
        "vocab_size": 116,
    },
    "0.5B": {
        "architecture": "qwen2", "d_model": 896, "n_heads": 14, "n_kv_heads": 2, "d_ff": 4864,
        "vocab_size": 151_936,
    },
}  # fmt: skip
PROMPT, BAR = 64, 5.0
EVERY = 7
"""One token id in so many ends a sentence."""


def build(sizes: dict[str, Any], context: str) -> LatentMemory:
    """A model whose predictions are far from even, so that rounding cannot decide between two tokens."""
    torch.manual_seed(0)
    model = LatentMemory(max_seq_len=1024, weaver_context=context, lora_dropout=0.0, rope_theta=1e6, **sizes).eval()
    model.network.get_input_embeddings().weight.data.mul_(10)
    model.measure()
    return model


def ends_of(vocab_size: int) -> Delimiters:
    kinds = (torch.arange(vocab_size) % EVERY == 0).long()
    return Delimiters(kinds, torch.tensor([[1, 5]]).expand(9, -1))


@torch.no_grad()
def again(model: LatentMemory, prompt_BS: Tensor, ends: Delimiters, num_tokens: int) -> list[list[int]]:
    """What is written where the whole text is read for every token, in a batch."""
    texts = [insert(model, [*model.embed(ids_S)], "prompt") for ids_S in prompt_BS]
    written: list[list[int]] = [[] for _ in texts]
    inserted = [0] * len(texts)
    while True:
        tokens = model.logits(last_states(model, texts)).argmax(1).tolist()
        for row, token in enumerate(tokens):
            written[row].append(token)
        if len(written[0]) == num_tokens:
            return written
        for row, token in enumerate(tokens):
            texts[row].append(model.embed(torch.tensor(token)))
            if bool(ends.decides(ends.transitions[0, ends.kinds[token]])) and inserted[row] < 5:
                texts[row], inserted[row] = insert(model, texts[row], "inference"), inserted[row] + 1


def insert(model: LatentMemory, text: list[Tensor], kind: str) -> list[Tensor]:
    """A text with latents behind it, from a weaver that reads all of it."""
    x_1LD = torch.stack(text)[None]
    reading = model.begin(1, weaves=True, decides=False)
    model.read(reading, x_1LD, torch.ones(x_1LD.shape[:2], dtype=torch.bool))
    return [*text, *model.weave(reading, kind)[0]]


def last_states(model: LatentMemory, texts: list[list[Tensor]]) -> Tensor:
    """The reader's state at each text's end (B, D), from one pass over whole texts without a cache."""
    longest = max(map(len, texts))
    x_BLD = torch.stack([F.pad(torch.stack(text), (0, 0, longest - len(text), 0)) for text in texts])
    real_BL = torch.arange(longest) >= torch.tensor([longest - len(text) for text in texts])[:, None]
    position_BL = (real_BL.long().cumsum(1) - 1).clamp_min(0)
    found = model.network.model(inputs_embeds=x_BLD, attention_mask=real_BL, position_ids=position_BL, use_cache=False)
    return found.last_hidden_state[:, -1]


def cached(model: LatentMemory, prompt_BS: Tensor, ends: Delimiters, num_tokens: int) -> list[list[int]]:
    found = write(
        model, prompt_BS, torch.ones_like(prompt_BS, dtype=torch.bool), torch.arange(len(prompt_BS)),
        limits=Limits(stop_ids=(), pad_id=0, max_new_tokens=num_tokens), ends=ends, choose=choices.always,
        source=latents.woven,
    )  # fmt: skip
    return found.token_BT[found.owner_B.argsort()].tolist()


def timed(function: Any, *arguments: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    found = function(*arguments)
    return time.perf_counter() - start, found


def compare(sizes: dict[str, int], context: str, rows: int, num_tokens: int, rounds: int) -> tuple[float, float, bool]:
    """Median seconds of reading again and of caches, in turn, and whether both wrote the same tokens."""
    model, ends = build(sizes, context), ends_of(sizes["vocab_size"])
    given = torch.randint(sizes["vocab_size"], (rows, PROMPT), generator=torch.Generator().manual_seed(1)), ends
    for way in (cached, again):  # to warm up
        way(model, *given, 4)
    seen = [(timed(again, model, *given, num_tokens), timed(cached, model, *given, num_tokens)) for _ in range(rounds)]
    slow, fast = (statistics.median(each[side][0] for each in seen) for side in (0, 1))
    return slow, fast, all(old[1] == new[1] for old, new in seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the tiny shape, 20 tokens; nothing is judged")
    parser.add_argument("--context", choices=CONTEXTS, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--layers", type=int, default=4, help="of the 0.5B shape, which has 24; 0 leaves it out")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    num_tokens, repeats = (20, 1) if options.quick else (options.tokens, options.repeats)
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}; {options.rows} texts,"
    )
    print(f"prompts of {PROMPT} tokens, {num_tokens} new tokens, 8 latents behind the prompt and 5 ends of sentences")
    print(
        "| shape | weaver reads | again, s | on caches, s | ratio | bar | same tokens |\n|---|---|---|---|---|---|---|"
    )
    for name, sizes in SHAPES.items():
        large = name != "memgen_tiny"
        if large and (options.quick or not options.layers):
            continue
        sizes = sizes | {"n_layers": options.layers} if large else sizes
        for context in options.context[: 1 if large else None]:
            slow, fast, same = compare(sizes, context, options.rows, num_tokens, 1 if large else repeats)
            judged = "not judged" if options.quick else "reached" if slow / fast >= BAR else "NOT reached"
            print(
                f"| {name}, {sizes['n_layers']} layers | {context} | {slow:.2f} | {fast:.2f} | "
                f"{slow / fast:.1f}x | {BAR:.0f}x {judged} | {same} |",
                flush=True,
            )
    if options.quick:
        print("quick: the numbers say nothing")


if __name__ == "__main__":
    main()
