"""Solve problems with a run of latent memory: what `infer` does where a model writes solutions with latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtx_lab.commands.delivery import deliver
from rtx_lab.core.errors import UsageError

if TYPE_CHECKING:
    from rtx_lab.reopen import LoadedRun

HELP = "a word problem"
TOGETHER = 64
"""Problems that are solved at once."""


@dataclass(frozen=True, slots=True)
class Solution:
    """A written solution, and the tokens of it behind which latents stand; 0 is the prompt's end."""

    text: str
    inserted_at: list[int]
    num_latents: int


def is_solver(loaded: LoadedRun) -> bool:
    """Whether a run's model writes with latents."""
    return hasattr(loaded.model, "weave")


def solve(loaded: LoadedRun, questions: Sequence[str]) -> list[Solution]:
    """Write a solution to each question, as the run was evaluated. Raises UsageError for an empty question."""
    import torch

    solver, tokenizer = _solver(loaded), loaded.tokenizer
    if not all(question.strip() for question in questions):
        raise UsageError("a question is empty: give some text")
    prompts = [torch.tensor(tokenizer.encode(solver.prompt(question))) for question in questions]
    found: list[Solution] = []
    for start in range(0, len(prompts), TOGETHER):
        some = prompts[start : start + TOGETHER]
        source = torch.nn.utils.rnn.pad_sequence(some, True, tokenizer.pad_id)
        mask = torch.arange(source.shape[1]) < torch.tensor([len(prompt) for prompt in some])[:, None]
        device = loaded.model.learnt.device
        index = torch.arange(start, start + len(some))
        batch = {"source": source.to(device), "source_mask": mask.to(device), "index": index.to(device)}
        written = solver.write(loaded.model, batch)
        for place in written.owner_B.argsort().tolist():
            ids = written.token_BT[place][: int(written.length_B[place])].tolist()
            inserted = written.place_BJ[place][written.action_BJ[place] == 1].tolist()
            found.append(Solution(solver.text(ids), inserted, int(written.latents_B[place])))
    return found


def _solver(loaded: LoadedRun) -> Any:
    """What the run's task writes with; the model then reads as in the run."""
    from rtx_lab.core.assembly import make_task, prepare
    from rtx_lab.core.schema import settle
    from rtx_lab.core.types import Cut

    run = settle(loaded.config).run
    task: Any = make_task(run, loaded.dataset, Cut(seed=run.seed, global_batch=1, micro_batch=1))
    prepare(task, loaded.model)
    return task.solver


def show(loaded: LoadedRun, question: str) -> None:
    """Print a question, its solution and where latents went in."""
    (found,) = solve(loaded, [question])
    places = ", ".join("the prompt" if place == 0 else f"token {place}" for place in found.inserted_at)
    print(f"Input: {question}")
    print(f"Output: {found.text}")
    print(f"Latents: {found.num_latents}" + (f" (behind {places})" if places else ""))


def solve_lines(loaded: LoadedRun, lines: Sequence[tuple[int, str]], out: Path | None) -> int:
    """Write one JSON line for each question: line, question, solution, inserted_at, num_latents."""
    rows = [
        {"line": number, "question": question, "solution": found.text, "inserted_at": found.inserted_at,
         "num_latents": found.num_latents}
        for (number, question), found in zip(lines, solve(loaded, [text for _, text in lines]), strict=True)
    ]  # fmt: skip
    return deliver(rows, out, "solutions")
