"""Summarise dialogues with a finished run: what `infer` does with a run of T5, mT5 or BART."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtx_lab.commands.delivery import deliver
from rtx_lab.core.errors import UsageError

if TYPE_CHECKING:
    from rtx_lab.reopen import LoadedRun

BATCH_TOKENS = 8192
"""Tokens of the sources that are read at once, padding and beams included."""
HELP = "a dialogue, one turn a line as `#Person1#: ...`, then an empty line"


def is_summariser(loaded: LoadedRun) -> bool:
    """Whether a run's model writes summaries instead of answering questions."""
    return hasattr(loaded.model, "write")


def split_dialogues(text: str) -> list[tuple[int, str]]:
    """The dialogues of a file, which empty lines part, each with the number of its first line."""
    found: list[tuple[int, list[str]]] = []
    open_block = False
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            open_block = False
            continue
        if not open_block:
            found.append((number, []))
        found[-1][1].append(line.rstrip())
        open_block = True
    return [(number, "\n".join(lines)) for number, lines in found]


def summarise(loaded: LoadedRun, dialogues: Sequence[str]) -> list[str]:
    """Write the summary of each dialogue, with the settings that the run was evaluated with, in batches by length."""
    import torch

    settings, model = loaded.config["generation"], loaded.model
    ids = [torch.from_numpy(loaded.dataset.encode_source(one)).long() for one in dialogues]
    order = sorted(range(len(ids)), key=lambda place: -len(ids[place]))
    device, written = next(model.parameters()).device, [""] * len(ids)
    while order:
        size = max(1, BATCH_TOKENS // (len(ids[order[0]]) * settings["num_beams"]))
        places, order = order[:size], order[size:]
        source = torch.nn.utils.rnn.pad_sequence([ids[place] for place in places], True, model.pad_id)
        lengths = torch.tensor([len(ids[place]) for place in places])
        mask = torch.arange(source.shape[1]) < lengths[:, None]
        with torch.no_grad():
            found = model.write(model.encode(source.to(device), mask.to(device)), **_ways(loaded))
        for place, text in zip(places, found.tolist(), strict=True):
            written[place] = loaded.dataset.decode(text)
    return written


def _ways(loaded: LoadedRun) -> dict[str, Any]:
    names = ("num_beams", "min_new_tokens", "length_penalty", "no_repeat_ngram_size", "early_stopping")
    settings = loaded.config["generation"]
    return {name: settings[name] for name in names} | {
        "max_new_tokens": settings["max_new_tokens"] or loaded.max_target_length
    }


def summarise_file(loaded: LoadedRun, dialogues: Sequence[tuple[int, str]], out: Path | None) -> int:
    """Write one JSON line for each dialogue: line, dialogue, summary."""
    texts = [text for _, text in dialogues]
    rows = [
        {"line": number, "dialogue": text, "summary": summary}
        for (number, text), summary in zip(dialogues, summarise(loaded, texts), strict=True)
    ]
    return deliver(rows, out, "summaries")


def show(loaded: LoadedRun, dialogue: str) -> None:
    """Print the summary of one typed dialogue. Raises UsageError for an empty one."""
    if not dialogue.strip():
        raise UsageError(f"the dialogue is empty: write {HELP}")
    length = len(loaded.dataset.tokenizer.encode(loaded.dataset.prefix + dialogue))
    if length > loaded.dataset.max_source_length:
        print(f"(only the first {loaded.dataset.max_source_length} of {length} tokens are read)")
    print(f"Summary: {summarise(loaded, [dialogue])[0]}")


@dataclass(slots=True)
class Listener:
    """What has been typed of a dialogue so far; an empty line ends it."""

    loaded: LoadedRun
    turns: list[str] = field(default_factory=list)

    def hear(self, line: str) -> None:
        """Take one more turn."""
        self.turns.append(line)

    def answer(self) -> None:
        """Summarise what was typed, if anything was."""
        turns, self.turns = self.turns, []
        if turns:
            show(self.loaded, "\n".join(turns))
