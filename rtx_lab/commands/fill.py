"""Fill in the [MASK]s of texts with a denoiser: what `infer` does with a run of RDT, MLM, CMLM or MDLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtx_lab.commands.delivery import deliver
from rtx_lab.commands.questions import refuse_unknown
from rtx_lab.core.errors import UsageError

if TYPE_CHECKING:
    from rtx_lab.reopen import LoadedRun

BATCH = 32
MASK = "[MASK]"
HELP = f"a text with {MASK} where a word is to be guessed"


@dataclass(frozen=True, slots=True)
class FilledText:
    """A text, how it was filled in, after how many of its steps, and what each step made of its tokens."""

    text: str
    output: str
    steps: int
    max_steps: int
    trace: tuple[list[int], ...]


def is_denoiser(loaded: LoadedRun) -> bool:
    """Whether a run's model fills in texts instead of answering questions."""
    return hasattr(loaded.model, "objective")


def set_ways(loaded: LoadedRun, max_steps: int | None, threshold: float | None) -> None:
    """Let the model take other steps than it was trained with. Raises UsageError where it has none to set."""
    if max_steps is None and threshold is None:
        return
    if not hasattr(loaded.model, "threshold"):
        raise UsageError("--max-steps and --threshold are for recursive denoisers (model=rdt_...): leave them out")
    if max_steps is not None:
        if max_steps < 1:
            raise UsageError(f"--max-steps must be at least 1, got {max_steps}")
        loaded.model.max_steps = max_steps
    if threshold is not None:
        if not 0 <= threshold < 1:
            raise UsageError(f"--threshold is the share of noise left at which a text is done, 0 to 1, not {threshold}")
        loaded.model.threshold = threshold


def tokens_of(loaded: LoadedRun, text: str) -> list[int]:
    """The ids of a text between its start and end token.

    Raises UsageError for an empty text, one without [MASK], one that is too long, or unknown words.
    """
    text, tokenizer = " ".join(text.split()), loaded.tokenizer
    if not text:
        raise UsageError("the text is empty: write one with [MASK] where a word is to be guessed")
    if MASK.lower() in text:
        raise UsageError(f"a hidden word is written {MASK}, in capitals")
    refuse_unknown([text.replace(MASK, " ")], tokenizer)
    ids = [tokenizer.start_id, *tokenizer.encode(text), tokenizer.eos_id]
    limit = loaded.config["model"]["max_seq_len"]
    if len(ids) > limit:
        raise UsageError(f"the text has {len(ids)} tokens and the model takes {limit}: shorten it")
    if tokenizer.mask_id not in ids:
        raise UsageError(f"nothing is to be guessed: write {MASK} for each hidden word")
    return ids


def fill(loaded: LoadedRun, texts: Sequence[str], ids: Sequence[list[int]]) -> list[FilledText]:
    """Fill in prepared texts, in batches of neighbours in length; each text as if it were alone."""
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    found: dict[int, FilledText] = {}
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        for place, filled in zip(places, _fill_batch(loaded, [ids[place] for place in places]), strict=True):
            tokens, steps, max_steps, trace = filled
            output = loaded.tokenizer.decode(tokens)
            found[place] = FilledText(" ".join(texts[place].split()), output, steps, max_steps, trace)
    return [found[place] for place in range(len(ids))]


def _fill_batch(loaded: LoadedRun, ids: list[list[int]]) -> list[tuple[list[int], int, int, tuple[list[int], ...]]]:
    import torch

    from rtx_lab.tasks.passes import FILLERS, Ways

    model, tokenizer = loaded.model, loaded.tokenizer
    device = next(model.parameters()).device
    tokens_BL = torch.full((len(ids), max(map(len, ids))), tokenizer.pad_id, device=device)
    real_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)
    for row, own in enumerate(ids):
        tokens_BL[row, : len(own)] = torch.tensor(own)
        real_BL[row, : len(own)] = True
    hidden_BL = (tokens_BL == tokenizer.mask_id) & real_BL
    seed_B = torch.arange(len(ids), device=device) * 0  # what is drawn for a text does not depend on its neighbours
    with torch.inference_mode():
        ways = Ways(tokenizer.mask_id, keep_trace=True)
        known_BL = None if real_BL.all() else real_BL
        filled = FILLERS[model.objective](model, tokens_BL, hidden_BL, known_BL, seed_B, ways)
    steps = filled.steps.tolist()
    views = [view.tolist() for view in filled.trace or ()]
    found = []
    for row, own in enumerate(ids):
        trace = tuple(view[row][: len(own)] for view in views[: steps[row]])
        found.append((filled.tokens[row, : len(own)].tolist(), steps[row], int(model.max_steps), trace))
    return found


def fill_one(loaded: LoadedRun, text: str) -> FilledText:
    """Fill in one typed text. Raises UsageError where it cannot be."""
    return fill(loaded, [text], [tokens_of(loaded, text)])[0]


def show(filled: FilledText) -> None:
    """Print a text as the command promises it."""
    print(f"Input: {filled.text}")
    print(f"Output: {filled.output}")
    print(f"Steps: {filled.steps}/{filled.max_steps}")


def show_steps(loaded: LoadedRun, filled: FilledText) -> None:
    """Print how the text settled, one line per step, in colour what changed since the line above, then the outcome."""
    from rich.console import Console
    from rich.text import Text

    console, before = Console(), None
    for number, tokens in enumerate(filled.trace, start=1):
        line = Text(f"{number:3d}  ")
        for place, token in enumerate(tokens):
            changed = before is not None and before[place] != token
            line.append(loaded.tokenizer.decode([token]) + " ", style="bold yellow" if changed else "")
        console.print(line)
        before = tokens
    show(filled)


def fill_lines(loaded: LoadedRun, lines: Sequence[tuple[int, str]], out: Path | None) -> int:
    """Fill in numbered lines and write them as JSON lines; every wrong line is named before anything is computed."""
    ids, problems = [], []
    for number, line in lines:
        try:
            ids.append(tokens_of(loaded, line))
        except UsageError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise UsageError(*problems)
    rows: list[dict[str, Any]] = [
        {"input": one.text, "output": one.output, "steps": one.steps, "max_steps": one.max_steps}
        for one in fill(loaded, [line for _, line in lines], ids)
    ]
    return deliver(rows, out, "texts")
