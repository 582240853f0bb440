"""Answer texts with a finished run or an exported model.

    python -m rtx_lab infer RUN --text "inn 3 right of church . where is inn from church ?" --options "3 left|3 right"
    python -m rtx_lab infer RUN --interactive
    python -m rtx_lab infer RUN --file questions.txt --out answers.jsonl

    python -m rtx_lab infer RUN --text "the [MASK] fox" --max-steps 30 --threshold 0.05

With options the likeliest one is chosen, without them the answer is written freely. A line may bring options of its
own: text || first | second. A run of a denoiser (rdt, mlm, cmlm, mdlm) fills in each [MASK] instead. A run of T5, mT5
or BART summarises dialogues: one turn a line, an empty line between two dialogues. A run of latent memory solves word
problems and says where latents went in.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtx_lab.commands import fill, solutions, summaries
from rtx_lab.commands.delivery import deliver, refuse_place
from rtx_lab.commands.places import find_run
from rtx_lab.commands.questions import Question, prepare, split_options
from rtx_lab.core.errors import UsageError

if TYPE_CHECKING:
    from rtx_lab.reopen import LoadedRun

LEAVE = ("quit", "exit")
QUESTION_HELP = "a question, or: question || first | second"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says, and after how many of its reasoning steps; `max_steps` is 0 for a model that takes none."""

    output: str
    steps: int
    max_steps: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("run", help="a run (its folder or a part of its name, see status) or an exported folder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="one question, text or dialogue")
    source.add_argument("--interactive", action="store_true", help="ask until quit, exit or Ctrl-D")
    source.add_argument("--file", type=Path, help="a text file, one question a line (dialogues: an empty line between)")
    parser.add_argument("--options", help="answers to choose from, as 'a|b|c'")
    parser.add_argument("--out", type=Path, help="with --file: JSON lines to write (else they are printed)")
    parser.add_argument("--max-steps", "--max_steps", type=int, help="denoisers: most steps (as trained: 20)")
    parser.add_argument("--threshold", type=float, help="denoisers: noise left at which a text is done (.05)")


def main(args: argparse.Namespace) -> int:
    """Answer and print or write; every wrong line of a file is named before anything is computed."""
    options = split_options(args.options) if args.options is not None else ()
    if args.file is None and args.out is not None:
        raise UsageError("--out is where the answers to a --file go: --file questions.txt --out answers.jsonl")
    refuse_place(args.out)
    lines = _read_lines(args.file) if args.file else []
    from rtx_lab.reopen import load_run

    loaded = load_run(find_run(args.run).path)
    if fill.is_denoiser(loaded):
        return _fill_in(loaded, args, lines)
    if args.max_steps is not None or args.threshold is not None:
        raise UsageError("--max-steps and --threshold are for denoisers, and this run is none: leave them out")
    if summaries.is_summariser(loaded):
        return _summarise(loaded, args)
    if solutions.is_solver(loaded):
        return _solve(loaded, args, lines)
    if args.interactive:
        return converse(lambda line: _show(ask(loaded, line, options)), QUESTION_HELP)
    if args.file:
        return _answer_file(loaded, lines, options, args.out)
    _show(ask(loaded, args.text, options))
    return 0


def _solve(loaded: LoadedRun, args: argparse.Namespace, lines: Sequence[tuple[int, str]]) -> int:
    if args.options is not None:
        raise UsageError("--options are for runs that choose, and this one writes solutions: leave them out")
    if args.file:
        return solutions.solve_lines(loaded, lines, args.out)
    if args.interactive:
        return converse(lambda line: solutions.show(loaded, line), solutions.HELP)
    solutions.show(loaded, args.text)
    return 0


def _summarise(loaded: LoadedRun, args: argparse.Namespace) -> int:
    if args.options is not None:
        raise UsageError("--options are for questions, and this run summarises dialogues: leave them out")
    if args.file:
        return summaries.summarise_file(loaded, summaries.split_dialogues(_read_text(args.file)), args.out)
    if args.interactive:
        listener = summaries.Listener(loaded)
        return converse(listener.hear, summaries.HELP, listener.answer)
    summaries.show(loaded, args.text.replace("\\n", "\n"))
    return 0


def ask(loaded: LoadedRun, line: str, options: Sequence[str] = ()) -> tuple[Question, Answer]:
    """Answer one typed line. Raises UsageError for a line that cannot be answered."""
    question = prepare(
        line,
        dataset=loaded.dataset_name,
        tokenizer=loaded.tokenizer,
        max_seq_len=loaded.config["model"]["max_seq_len"],
        options=options,
    )
    return question, answer(loaded, question)


def answer(loaded: LoadedRun, question: Question) -> Answer:
    """Choose among the options by the likelihood of their content, or write freely where there are none."""
    import torch

    model = loaded.model
    device = next(model.parameters()).device
    source_1S = torch.tensor([question.source_ids], device=device)
    with torch.inference_mode():
        memory = model.encode(source_1S, torch.ones_like(source_1S, dtype=torch.bool))
        output = _choose(loaded, memory, question) if question.options else _write(loaded, memory)
    return Answer(output, int(memory.steps[0]), int(model.max_steps))


def _choose(loaded: LoadedRun, memory: Any, question: Question) -> str:
    import torch

    from rtx_lab.inference.rank import option_log_likelihood

    tokenizer, ids = loaded.tokenizer, question.option_ids
    shape = (1, len(ids), 1 + max(map(len, ids)))
    read_1OU = torch.full(shape, tokenizer.pad_id, device=memory.states.device)
    say_1OU = torch.full(shape, -100, device=memory.states.device)
    for place, option in enumerate(ids):
        read_1OU[0, place, : len(option) + 1] = torch.tensor([tokenizer.start_id, *option])
        say_1OU[0, place, : len(option) + 1] = torch.tensor([*option, tokenizer.eos_id])
    total_1O = option_log_likelihood(loaded.model, memory, read_1OU, say_1OU)
    return question.options[int(total_1O.argmax())]


def _write(loaded: LoadedRun, memory: Any) -> str:
    from rtx_lab.inference.generate import generate

    tokenizer, settings = loaded.tokenizer, loaded.config.get("generation") or {}
    limit = settings.get("max_new_tokens") or loaded.max_target_length
    written = generate(
        loaded.model,
        memory,
        start_id=tokenizer.start_id,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        max_tokens=min(limit, loaded.config["model"]["max_seq_len"]),
        num_beams=settings.get("num_beams", 1),
        length_penalty=settings.get("length_penalty", 1.0),
    )
    return tokenizer.decode_answer(written[0].tolist())


def _show(answered: tuple[Question, Answer]) -> None:
    question, found = answered
    print(f"Input: {question.text}")
    print(f"Output: {found.output}")
    print(f"Steps: {found.steps}/{found.max_steps}" if found.max_steps else "Steps: none (this model does not iterate)")


def _fill_in(loaded: LoadedRun, args: argparse.Namespace, lines: Sequence[tuple[int, str]]) -> int:
    """Fill in the masks of what was given, in whichever of the three ways."""
    if args.options is not None:
        raise UsageError("--options is for runs that answer questions, and this one fills in [MASK]s: leave it out")
    fill.set_ways(loaded, args.max_steps, args.threshold)
    if args.file:
        return fill.fill_lines(loaded, lines, args.out)
    if args.interactive:
        return converse(lambda line: fill.show_steps(loaded, fill.fill_one(loaded, line)), fill.HELP)
    fill.show(fill.fill_one(loaded, args.text))
    return 0


def converse(respond: Callable[[str], None], hint: str, pause: Callable[[], None] = lambda: None) -> int:
    """Respond to typed lines until quit, exit, Ctrl-D or Ctrl-C; a line that cannot be answered is explained.

    `pause` is called for an empty line.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (its import gives input() a history and line editing)
    print(f"{hint}    (quit, exit or Ctrl-D leaves)")
    while True:
        try:
            line = input("> ").strip()
            if line.lower() in LEAVE:
                return 0
            if line:
                respond(line)
            else:
                pause()
        except UsageError as error:
            print(f"error: {error}")
        except (EOFError, KeyboardInterrupt):
            print()
            return 0


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start})") from error


def _read_lines(path: Path) -> list[tuple[int, str]]:
    lines = _read_text(path).splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise UsageError(f"{path} holds no questions: write one a line")
    return numbered


def _answer_file(loaded: LoadedRun, lines: Sequence[tuple[int, str]], options: Sequence[str], out: Path | None) -> int:
    tokenizer, max_seq_len = loaded.tokenizer, loaded.config["model"]["max_seq_len"]
    questions, problems = [], []
    for number, line in lines:
        try:
            questions.append(
                prepare(
                    line, dataset=loaded.dataset_name, tokenizer=tokenizer, max_seq_len=max_seq_len, options=options
                )
            )
        except UsageError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise UsageError(*problems)
    rows = []
    for question in questions:
        found = answer(loaded, question)
        row = {"input": question.text, "options": list(question.options), "output": found.output}
        rows.append(row | {"steps": found.steps, "max_steps": found.max_steps})
    return deliver(rows, out, "answers")
