"""Solving: a question in, a worked solution out, written with latent memory, and its number compared.

What every stage of latent memory does alike: write the answers of a held-out split once each, judge them, and keep what
happened on the way. A prediction never sees a label.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rtx_lab.core.errors import UsageError
from rtx_lab.core.repeats import repeated
from rtx_lab.core.sections import Ltpo
from rtx_lab.core.types import Batch, Cut, Record
from rtx_lab.data.delimiters import find_delimiters
from rtx_lab.data.loading import held_out_batches
from rtx_lab.data.prompts import before_stop, prompt_frame, prompted, stop_ids, stop_texts
from rtx_lab.data.text import Split, TextDataset
from rtx_lab.inference import choices, latents, ltpo
from rtx_lab.inference.latent_rows import Choose, Limits, Source, Written
from rtx_lab.inference.latent_writing import write
from rtx_lab.models.latent_reading import Reading
from rtx_lab.nn.hashing import GOLDEN, scramble
from rtx_lab.scoring.solutions import answer_lines, judge, summarise
from rtx_lab.tasks.summarise import WATCH, held, watched_rows

MODEL = "rtx_lab.models.latent_memory.LatentMemory"
"""What all stages of latent memory are about."""
REFUSES = {
    "budget.micro_tokens": "give budget.micro_batch",
    "budget.gradient_checkpointing": "keys and values are kept for what is read next; lower budget.micro_batch",
}
"""Settings that no stage of latent memory can do, and what to do instead."""
INSERTS = ("never", "prompt", "always", "random", "trigger")
LATENTS = ("woven", "noise", "learnt")


class Writing(Protocol):
    """How an answer is written."""

    max_new_tokens: int | None
    temperature: float
    watch_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """When latents are inserted, and where they come from."""

    insert: str = "always"
    insert_share: float = 0.5
    latents: str = "woven"

    def check(self) -> None:
        """Raise UsageError, naming everything that is out of range."""
        problems = []
        if self.insert not in INSERTS:
            problems.append(f"task.insert must be one of {', '.join(INSERTS)}, got {self.insert!r}")
        if self.latents not in LATENTS:
            problems.append(f"task.latents must be one of {', '.join(LATENTS)}, got {self.latents!r}")
        if not 0 <= self.insert_share <= 1:
            problems.append(f"task.insert_share must lie between 0 and 1, got {self.insert_share}")
        if problems:
            raise UsageError(*problems)

    @property
    def choose(self) -> Choose | None:
        """The rule by which rows decide; None inserts nothing."""
        if self.insert == "never":
            return None
        if self.insert == "random":
            return choices.at_random(self.insert_share)
        return choices.by_trigger if self.insert == "trigger" else choices.always

    def most(self, model: Any) -> dict[str, int]:
        """How many insertions a text has at most, by kind."""
        most = {"prompt": 0, "inference": 0}
        if self.insert != "never" and model.prompt_latents:
            most["prompt"] = model.max_insertions["prompt"]
        if self.insert not in ("never", "prompt") and self.latents != "learnt" and model.inference_latents:
            most["inference"] = model.max_insertions["inference"]
        return most

    def source(self, settings: Ltpo) -> Source:
        """Where latents come from."""
        if self.latents == "woven" and settings.enabled:
            return ltpo.improved(settings)
        return {"woven": latents.woven, "noise": latents.noise, "learnt": latents.learnt}[self.latents]


class Solver:
    """A data set of worked solutions, and one way to write answers to it."""

    def __init__(
        self, *, dataset: TextDataset, cut: Cut, generation: Writing, ltpo: Ltpo, way: Way, template: str,
        calculator: str,
    ) -> None:  # fmt: skip
        way.check()
        self.dataset = prompted(dataset, template, calculator)
        self.cut, self.generation, self.ltpo, self.way, self.template = cut, generation, ltpo, way, template
        tokenizer = dataset.tokenizer
        self.delimiters = find_delimiters(tokenizer, dataset.vocab_size)
        self.stops = stop_texts(tokenizer, template)
        self.limits = Limits(
            stop_ids=stop_ids(tokenizer, template), pad_id=tokenizer.pad_id,
            max_new_tokens=generation.max_new_tokens or dataset.max_target_length,
            temperature=generation.temperature,
        )  # fmt: skip

    def held_out(self, split: str) -> Iterator[Batch]:
        """Every row of a split once, longest first; of `watch` a fixed subset of validation."""
        opened = self.dataset.split(held(split))
        rows = watched_rows(len(opened), self.generation.watch_rows) if split == WATCH else None
        return held_out_batches(opened, batch_size=self.cut.eval_batch, rows=rows)

    def num_scored(self, split: str) -> int:
        """Rows of the split, or of the part of validation that is watched."""
        rows = self.dataset.num_rows(held(split))
        return min(rows, self.generation.watch_rows) if split == WATCH else rows

    def score(self, model: Any, batch: Batch, split: str) -> list[Record]:
        """Write each answer from its question alone, judge it, and say where latents went in."""
        opened = self.dataset.split(held(split))
        numbers = batch["index"].tolist()
        started = time.perf_counter()
        written = self.write(model, batch)
        share_s = (time.perf_counter() - started) / len(numbers)
        order = written.owner_B.argsort().tolist()
        tokens, lengths = written.token_BT.tolist(), written.length_B.tolist()
        facts = zip(numbers, order, strict=True)
        return [
            self._record(opened, number, tokens[place][: lengths[place]], written, place, share_s)
            for number, place in facts
        ]

    def write(self, model: Any, batch: Batch) -> Written:
        """One answer for each question of a batch."""
        way, device = self.way, batch["source"].device
        return write(
            model, batch["source"], batch["source_mask"], seeds(batch["index"], self.cut.seed),
            limits=self.limits, ends=self.delimiters.to(device), choose=way.choose, source=way.source(self.ltpo),
            in_answer=way.insert != "prompt" and way.latents != "learnt", decides=way.insert == "trigger",
        )  # fmt: skip

    @torch.no_grad()
    def rehearse(self, model: Any, num_rows: int) -> None:
        """Read the longest prompts and weave behind them; then, at the end of the longest answers, weave and read a
        place. Each counts as often as writing comes to it."""
        most = self.way.most(model)
        reading = model.begin(num_rows, weaves=self.way.insert != "never", decides=self.way.insert == "trigger")
        ids_BS = torch.zeros(num_rows, min(self.dataset.max_source_length, model.max_seq_len), dtype=torch.int64)
        real_BS = torch.ones_like(ids_BS, dtype=torch.bool)
        model.read(reading, model.embed(ids_BS), real_BS)
        self._rehearse_insertions(model, reading, "prompt", most["prompt"])
        num_latents = most["prompt"] * model.prompt_latents + most["inference"] * model.inference_latents
        places = max(1, min(self.limits.max_new_tokens + num_latents, model.max_seq_len - ids_BS.shape[1]))
        reading.lengthen(places - 1)
        self._rehearse_insertions(model, reading, "inference", most["inference"])
        with repeated(places):
            model.logits(model.read(reading, model.embed(ids_BS[:, :1]), real_BS[:, :1])[:, -1])
        reading.select(torch.arange(-(-3 * num_rows // 4)))  # finished rows leave

    def _rehearse_insertions(self, model: Any, reading: Reading, kind: str, count: int) -> None:
        if not count:
            return
        model.catch_up(reading)
        reading = reading.select(torch.arange(len(reading.state_BD)))  # those that insert, all of them at worst
        if self.way.latents == "learnt":
            return
        with repeated(count):
            woven_NKD = model.weave(reading, kind)
            if self.way.latents == "woven" and self.ltpo.enabled and (kind == "prompt" or self.ltpo.where == "all"):
                ltpo.rehearse(self.ltpo, model, reading.reader, woven_NKD)

    def prompt(self, question: str) -> str:
        """A question as the model reads it."""
        before, after = prompt_frame(self.dataset.tokenizer, self.template)
        return f"{before}{question}{after}"

    def text(self, ids: list[int]) -> str:
        """The answer that these tokens write, up to where another question begins."""
        return before_stop(self.dataset.tokenizer.decode_answer(ids), self.stops)

    def is_cut(self, ids: list[int], at_limit: bool) -> bool:
        """Whether a limit cut an answer: not where it is whole and only what follows it was cut."""
        if not at_limit or not self.stops:
            return at_limit
        text = self.dataset.tokenizer.decode_answer(ids)
        return before_stop(text, self.stops) == text

    def _record(
        self, opened: Split, number: int, ids: list[int], written: Written, place: int, share_s: float
    ) -> Record:
        row, text = opened.record(number), self.text(ids)
        action_J, at_J = written.action_BJ[place], written.place_BJ[place]
        cut = self.is_cut(ids, bool(written.cut_B[place]))
        solution = self.dataset.tokenizer.decode_answer(opened.target(number).tolist())
        judged = {key: right and not cut for key, right in judge(text, row["gold"]).items()}
        record: Record = {
            "id": row["id"], "row": number, "prompt": row["source"], "prediction": text, "gold": row["gold"],
            "solution": solution, **judged, "num_tokens": len(ids), "cut": cut,
            "decided_at": at_J[action_J >= 0].tolist(), "inserted_at": at_J[action_J == 1].tolist(),
            "num_latents": int(written.latents_B[place]), "seconds": share_s,
            "difficulty": row["difficulty"], "family": row["family"],
        }  # fmt: skip
        *summed, num_searches = written.traced_B5[place].tolist()
        if not num_searches:
            return record
        first, best, moved, steps = (value / num_searches for value in summed)
        return record | {"ltpo_first": first, "ltpo_best": best, "ltpo_moved": moved, "ltpo_steps": steps}

    def summarise(self, records: list[Record]) -> dict[str, Any]:
        """Accuracy strict and flexible with intervals, insertions, lengths, time, and what a search moved."""
        return summarise(records)

    def files(self, records: list[Record], split: str) -> dict[str, str]:
        """The test answers in the format of the seed: `answer.json`, with LTPO `answer_ltpo.json`."""
        if split != "test":
            return {}
        return {"answer_ltpo.json" if self.ltpo.enabled else "answer.json": answer_lines(records)}


def seeds(index_B: Tensor, seed: int) -> Tensor:
    """A seed for each row (B,), its own in every run."""
    return scramble(scramble(index_B + GOLDEN) + seed)
