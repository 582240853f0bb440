"""Writing with latent memory: a batch of texts, one place a step, caches never dropped.

In every step each row reads one place: a token, or the next of the latents that were woven for it. So rows may stand
anywhere, shapes are static, and nothing is read twice. At the prompt's end and behind the ends of sentences a row meets
a *decision*; a row may stand for several writings, and where they decide differently it is split in two.

Shapes: B rows, T places of an answer, K latents of an insertion, D width, N rows that decide now.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtx_lab.inference.latent_rows import (
    NUM_TRACED,
    UNDECIDED,
    Choose,
    Decision,
    Ends,
    Limits,
    Rows,
    Source,
    Written,
    gathered,
)
from rtx_lab.nn.hashing import GOLDEN, scramble
from rtx_lab.nn.masking import CHOICES, hashed_uniform

MOST_ASKED = 4
"""Decisions that a row can meet in its answer, as a multiple of the insertions it may make."""


@torch.no_grad()
def write(
    model: Any,
    prompt_BS: Tensor,
    mask_BS: Tensor,
    seed_B: Tensor,
    *,
    limits: Limits,
    ends: Ends,
    choose: Choose | None,
    source: Source,
    in_answer: bool = True,
    decides: bool = False,
    weight: int = 1,
    keep_states: bool = False,
) -> Written:
    """Write an answer behind every prompt (B, S), whose real places `mask_BS` names; seeds belong to rows.

    `choose` None never inserts; `in_answer` false inserts behind the prompt alone. `decides` says whether the trigger
    is asked. With `weight` above 1 every prompt is written so many times at once. A prompt that fills the context gets
    an empty answer that counts as cut.
    """
    prompt_BS, mask_BS = _fit(model, prompt_BS, mask_BS)
    rows = _opened(model, prompt_BS, mask_BS, seed_B, limits, choose is not None, decides, weight, keep_states)
    done: list[Rows] = []
    if choose is not None:
        for _ in range(model.max_insertions["prompt"]):
            rows = _behind_prompt(model, rows, choose, source)
    room = model.max_seq_len - rows.reading.reader.real_BL.sum(1)
    rows.finished = rows.cut = room < 1
    _pick(model, rows, ~rows.finished, limits)
    while True:
        rows = _put_aside(rows, done)
        if not len(rows):
            return gathered(done, limits.pad_id)
        rows = _step(model, rows, limits, ends, choose if in_answer else None, source)


def _fit(model: Any, prompt_BS: Tensor, mask_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts that are longer than the context lose their beginning, whatever stands beside them; theirs are cut."""
    longest, most = prompt_BS.shape[1], model.max_seq_len
    if longest <= most:
        return prompt_BS, mask_BS
    place_S = torch.arange(1, longest + 1, device=prompt_BS.device)
    first_B = ((mask_BS * place_S).amax(1) - most).clamp_min(0)
    kept_BS = first_B[:, None] + place_S[:most] - 1
    return prompt_BS.gather(1, kept_BS), mask_BS.gather(1, kept_BS)


def _opened(
    model: Any, prompt_BS: Tensor, mask_BS: Tensor, seed_B: Tensor, limits: Limits, weaves: bool, decides: bool,
    weight: int, keep_states: bool,
) -> Rows:  # fmt: skip
    num_rows, device = len(prompt_BS), prompt_BS.device
    reading = model.begin(num_rows, weaves=weaves, decides=decides)
    hidden_BSD = model.read(reading, model.embed(prompt_BS), mask_BS)
    last_B = (mask_BS * torch.arange(1, mask_BS.shape[1] + 1, device=device)).amax(1) - 1
    every_B = torch.arange(num_rows, device=device)
    longest = max(model.inference_latents, 1)
    most = 1 + MOST_ASKED * model.max_insertions["inference"]
    none_B = torch.zeros(num_rows, dtype=torch.int64, device=device)
    false_B = torch.zeros(num_rows, dtype=torch.bool, device=device)
    width = hidden_BSD.shape[2]
    return Rows(
        reading=reading, owner=every_B, weight=torch.full_like(none_B, weight), seed=seed_B,
        token=torch.full((num_rows, limits.max_new_tokens), limits.pad_id, device=device), length=none_B,
        upcoming=none_B, ending=none_B, hidden=hidden_BSD[every_B, last_B],
        queue=hidden_BSD.new_zeros(num_rows, longest, width), queued=none_B, queue_place=none_B,
        num_decided=none_B, num_inserted=none_B, action=torch.full((num_rows, most), UNDECIDED, device=device),
        place=torch.zeros(num_rows, most, dtype=torch.int64, device=device),
        state=hidden_BSD.new_zeros(num_rows, most, width) if keep_states else None, latents=none_B,
        traced=torch.zeros(num_rows, NUM_TRACED, device=device), finished=false_B, cut=false_B,
    )  # fmt: skip


def _behind_prompt(model: Any, rows: Rows, choose: Choose, source: Source) -> Rows:
    """Decide once for each row, and let those that insert read their latents in one piece."""
    length = model.prompt_latents
    fits_B = model.max_seq_len - rows.reading.reader.real_BL.sum(1) > length
    if not length or not bool(fits_B.any()):
        return rows
    if not bool((rows.num_decided > 0).any()):
        rows, inserts_B = _decided(model, rows, fits_B, choose)
    else:  # the second insertion behind a prompt follows the first decision
        inserts_B = fits_B & (rows.action[:, 0] == 1)
    chosen = inserts_B.nonzero()[:, 0]
    if not len(chosen):
        return rows
    model.catch_up(rows.reading)
    latents_NKD, traced_N5 = source(model, rows.reading.select(chosen), "prompt", rows.seed[chosen])
    x_BKD = latents_NKD.new_zeros(len(rows), length, latents_NKD.shape[2])
    x_BKD[chosen] = latents_NKD
    real_BK = inserts_B[:, None].expand(-1, length)
    hidden_BKD = model.read(rows.reading, x_BKD, real_BK, torch.zeros_like(real_BK))
    rows.hidden = torch.where(inserts_B[:, None], hidden_BKD[:, -1], rows.hidden)
    rows.latents = rows.latents + length * inserts_B
    rows.traced = rows.traced.index_add(0, chosen, traced_N5.to(rows.traced))
    return rows


def _decided(model: Any, rows: Rows, meets_B: Tensor, choose: Choose) -> tuple[Rows, Tensor]:
    """Let the rows that meet a decision decide; split those whose writings differ. Returns who inserts (B,)."""
    met = meets_B.nonzero()[:, 0]
    state_ND = rows.reading.state_BD[met]
    number_N = rows.num_decided[met]
    number_inserting = choose(
        Decision(state_ND, model.insertion_logit(state_ND), rows.weight[met], number_N, rows.seed[met])
    )
    inserting_B = torch.zeros_like(rows.weight).index_copy(0, met, number_inserting)
    split = (meets_B & (inserting_B > 0) & (inserting_B < rows.weight)).nonzero()[:, 0]
    twin = torch.arange(len(rows), device=met.device)
    is_twin = torch.zeros(len(rows) + len(split), dtype=torch.bool, device=met.device)
    if len(split):
        twin = torch.cat([twin, split])
        is_twin[len(rows) :] = True
        rows = rows.select(twin)
        rows.seed = torch.where(is_twin, scramble(rows.seed + GOLDEN), rows.seed)  # else both would draw alike below
    meets_B, inserting_B = meets_B[twin], inserting_B[twin]
    both_B = meets_B & (inserting_B > 0) & (inserting_B < rows.weight)
    inserts_B = meets_B & (inserting_B > 0) & ~is_twin
    rows.weight = torch.where(both_B, torch.where(is_twin, rows.weight - inserting_B, inserting_B), rows.weight)
    at = rows.num_decided[:, None].clamp_max(rows.action.shape[1] - 1)
    rows.action = torch.where(meets_B[:, None], rows.action.scatter(1, at, inserts_B[:, None].long()), rows.action)
    rows.place = torch.where(meets_B[:, None], rows.place.scatter(1, at, rows.length[:, None]), rows.place)
    if rows.state is not None:
        at_D = at[..., None].expand(-1, 1, rows.state.shape[2])
        marked = rows.state.scatter(1, at_D, rows.reading.state_BD[:, None].to(rows.state))
        rows.state = torch.where(meets_B[:, None, None], marked, rows.state)
    rows.num_decided = rows.num_decided + meets_B
    return rows, inserts_B


def _step(model: Any, rows: Rows, limits: Limits, ends: Ends, choose: Choose | None, source: Source) -> Rows:
    """Read one place in every row, decide where sentences end, and pick a token where no latent is waiting."""
    forced_B = rows.queue_place < rows.queued
    at = rows.queue_place.clamp_max(rows.queue.shape[1] - 1)
    latent_BD = rows.queue[torch.arange(len(rows), device=at.device), at]
    x_BD = torch.where(forced_B[:, None], latent_BD, model.embed(rows.upcoming).to(latent_BD))
    alive_B = ~rows.finished
    hidden_B1D = model.read(rows.reading, x_BD[:, None], alive_B[:, None], ~forced_B[:, None])
    rows.hidden = hidden_B1D[:, 0]
    rows.queue_place = rows.queue_place + (forced_B & alive_B)
    was_text_B = alive_B & ~forced_B
    room_B = model.max_seq_len - rows.reading.reader.real_BL.sum(1)
    if choose is not None and model.inference_latents:
        rows.ending = torch.where(was_text_B, ends.advance(rows.ending, rows.upcoming), rows.ending)
        may_B = (rows.num_inserted < model.max_insertions["inference"]) & (room_B > model.inference_latents)
        meets_B = was_text_B & ends.decides(rows.ending) & may_B & (rows.num_decided < rows.action.shape[1])
        if bool(meets_B.any()):
            rows, inserts_B = _decided(model, rows, meets_B, choose)
            _queue(model, rows, inserts_B, source)
            room_B = model.max_seq_len - rows.reading.reader.real_BL.sum(1)
    waits_B = rows.queue_place < rows.queued
    full_B = ~rows.finished & (room_B < 1)
    rows.cut, rows.finished = rows.cut | full_B, rows.finished | full_B
    _pick(model, rows, ~rows.finished & ~waits_B, limits)
    return rows


def _queue(model: Any, rows: Rows, inserts_B: Tensor, source: Source) -> None:
    chosen = inserts_B.nonzero()[:, 0]
    if not len(chosen):
        return
    model.catch_up(rows.reading)
    latents_NKD, traced_N5 = source(model, rows.reading.select(chosen), "inference", rows.seed[chosen])
    rows.queue = rows.queue.index_copy(0, chosen, latents_NKD.to(rows.queue))
    rows.queued = torch.where(inserts_B, model.inference_latents, rows.queued)
    rows.queue_place = torch.where(inserts_B, 0, rows.queue_place)
    rows.num_inserted = rows.num_inserted + inserts_B
    rows.latents = rows.latents + model.inference_latents * inserts_B
    rows.traced = rows.traced.index_add(0, chosen, traced_N5.to(rows.traced))


def _pick(model: Any, rows: Rows, picks_B: Tensor, limits: Limits) -> None:
    """Pick the next token of the rows that are to have one; the end, and the last token there is room for, finish."""
    if not len(rows):
        return
    logits_BV = model.logits(rows.hidden)
    if limits.temperature > 0:
        uniform_BV = hashed_uniform(rows.seed * 1_000_003 + rows.length, logits_BV.shape[1], CHOICES)
        logits_BV = logits_BV / limits.temperature - (-uniform_BV.clamp_min(1e-9).log()).log()  # Gumbel's maximum
    picked_B = logits_BV.argmax(1)
    rows.upcoming = torch.where(picks_B, picked_B, rows.upcoming)
    at = rows.length[:, None].clamp_max(limits.max_new_tokens - 1)
    rows.token = torch.where(picks_B[:, None], rows.token.scatter(1, at, picked_B[:, None]), rows.token)
    rows.length = rows.length + picks_B
    ended_B = picks_B & torch.isin(picked_B, torch.tensor(limits.stop_ids, device=picked_B.device))
    limit_B = picks_B & ~ended_B & (rows.length == limits.max_new_tokens)
    rows.finished, rows.cut = rows.finished | ended_B | limit_B, rows.cut | limit_B


def _put_aside(rows: Rows, done: list[Rows]) -> Rows:
    """Take finished rows out of the batch once they are a quarter of it, or all."""
    num_finished = int(rows.finished.sum())
    if 4 * num_finished < len(rows) or not num_finished:
        return rows
    finished = rows.select(rows.finished.nonzero()[:, 0])
    finished.reading = rows.reading.select(
        rows.finished.nonzero()[:0, 0]
    )  # its keys and values are not needed any more
    done.append(finished)
    return rows.select((~rows.finished).nonzero()[:, 0])
