"""Where latents are inserted into a known answer, and the pieces of text that stand between them.

Pieces are what a model reads at once: piece 0 is the prompt (with the answer's beginning, where nothing is inserted
behind the prompt), and every further piece follows an insertion. A row with fewer insertions has empty last pieces.
What predicts a token is the place before it: a token behind an insertion is predicted by the last latent.

Shapes: B samples, S longest prompt, T longest answer with its end, P_c longest piece c.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rtx_lab.core.types import Batch
from rtx_lab.data.collate import IGNORED
from rtx_lab.data.delimiters import Delimiters, decision_points

POINTS = ("random", "first")
"""Which ends of sentences get latents in training, where there are more than may get some."""


def sentence_ends(batch: Batch, delimiters: Delimiters) -> np.ndarray:
    """Whether a decision is met behind each token of the answers (B, T); never behind the last one."""
    found_BT = np.zeros(batch["labels"].shape, dtype=bool)
    for row, labels_T in enumerate(batch["labels"].numpy()):
        answer = labels_T[labels_T != IGNORED][:-1]
        found_BT[row, decision_points(delimiters, answer) - 1] = True
    found_BT[:, -1] = False
    return found_BT


def chosen_ends(found_BT: np.ndarray, most: int, draw_BT: np.ndarray | None) -> np.ndarray:
    """At most `most` of the ends of each row (B, T): the first, or with `draw_BT` those of the smallest numbers."""
    order_BT = np.where(found_BT, np.arange(found_BT.shape[1]) if draw_BT is None else draw_BT, np.inf)
    rank_BT = order_BT.argsort(1, kind="stable").argsort(1, kind="stable")
    return found_BT & (rank_BT < most)


def in_pieces(
    batch: Batch,
    cuts_BT: np.ndarray,
    *,
    prompt_insertions: int,
    prompt_len: int,
    inference_len: int,
    bare_B: np.ndarray | None = None,
) -> Batch:
    """What a model reads and predicts, from a collated batch and the tokens behind which latents stand.

    `bare_B` names samples without latents behind the prompt. Gives index (B,), labels (B, T), at (B, T): the place that
    predicts each token, among all places read, latents included; and for each piece c text_c (B, P_c), real_c (B, P_c)
    and, behind an insertion, inserts_c (B,).
    """
    labels_BT = batch["labels"].numpy()
    prompt_len_B = batch["source_mask"].numpy().sum(1)
    num_rows, longest = labels_BT.shape
    real_BT = np.arange(longest) < (labels_BT != IGNORED).sum(1)[:, None]
    # the piece of every token: how many insertions stand before it
    piece_BT = prompt_insertions + np.concatenate([np.zeros((num_rows, 1), int), cuts_BT[:, :-1].cumsum(1)], axis=1)
    made: dict[str, np.ndarray] = {"index": batch["index"].numpy(), "labels": labels_BT}
    at_BT, offset = np.zeros((num_rows, longest), dtype=np.int64), 0
    for piece in range(1 + prompt_insertions + int(cuts_BT.sum(1).max(initial=0))):
        own_BT = real_BT & (piece_BT == piece)
        head_B = prompt_len_B if piece == 0 else np.zeros(num_rows, int)
        text_BP, real_BP, first_B = _piece(batch, own_BT, head_B)
        made[f"text_{piece}"], made[f"real_{piece}"] = text_BP, real_BP
        if piece:
            offset += prompt_len if piece <= prompt_insertions else inference_len
            inserts_B = own_BT.any(1) | (piece < prompt_insertions)
            made[f"inserts_{piece}"] = inserts_B if bare_B is None or piece > prompt_insertions else inserts_B & ~bare_B
        inside_BT = np.arange(longest) - first_B[:, None]
        at_BT = np.where(own_BT, offset + head_B[:, None] + inside_BT - 1, at_BT)
        offset += text_BP.shape[1]
    if bare_B is not None and prompt_insertions:
        at_BT[bare_B, 0] = prompt_len_B[bare_B] - 1
    made["at"] = at_BT
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in made.items()}


def _piece(batch: Batch, own_BT: np.ndarray, head_B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is read of one piece: the first `head_B` tokens of the prompts and the piece's own tokens of the answers.

    Returns ids and which are real, both (B, P), and the first own token (B,). A last token is predicted, never read.
    """
    labels_BT, prompt_BS = batch["labels"].numpy(), batch["source"].numpy()
    is_last_BT = np.arange(own_BT.shape[1]) == (labels_BT != IGNORED).sum(1)[:, None] - 1
    first_B = np.where(own_BT.any(1), own_BT.argmax(1), 0)
    num_fed_B = (own_BT & ~is_last_BT).sum(1)
    text_BP = np.zeros((len(own_BT), int((head_B + num_fed_B).max(initial=0))), dtype=np.int64)
    for row, (head, first, fed) in enumerate(zip(head_B, first_B, num_fed_B, strict=True)):
        text_BP[row, :head] = prompt_BS[row, :head]
        text_BP[row, head : head + fed] = labels_BT[row, first : first + fed]
    return text_BP, np.arange(text_BP.shape[1]) < (head_B + num_fed_B)[:, None], first_B


def empty_pieces(num_samples: int, target_length: int, widths: Sequence[int]) -> Batch:
    """What `in_pieces` gives where pieces have these widths, without their tokens; every row inserts everywhere."""
    batch = {"index": torch.zeros(num_samples, dtype=torch.int64)}
    batch |= {name: torch.zeros(num_samples, target_length, dtype=torch.int64) for name in ("labels", "at")}
    for piece, width in enumerate(widths):
        batch[f"text_{piece}"] = torch.zeros(num_samples, width, dtype=torch.int64)
        batch[f"real_{piece}"] = torch.ones(num_samples, width, dtype=torch.bool)
        if piece:
            batch[f"inserts_{piece}"] = torch.ones(num_samples, dtype=torch.bool)
    return batch
