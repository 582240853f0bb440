"""Writing summaries with 8 beams, longest dialogues first under a budget of tokens, against plain transformers.

    python benchmarks/beam_evaluation.py [--quick] [--architecture t5|mt5|bart] [--rows 256] [--budget 8192] [--batch 8]

A tiny model learns the built-in dialogues for `--train-seconds`; then the test split is written in three ways: ours
(the batches of `SummariseTask.held_out`, `model.write`); transformers (the exported folder by AutoModelForSeq2SeqLM,
none of our kernels) in the order of the data, `--batch` rows at a time; and that at the mean batch size of ours: what
batch size alone is worth. All use the GenerationConfig that `write` makes. Timed is everything from ids to texts;
`equal` counts the texts that are those of transformers. Bars: 2x transformers in batches of 8; 99.5 % of the texts
equal in float32, all in float64.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import yaml
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from rtx_lab.core.sections import Generation  # noqa: E402
from rtx_lab.core.types import Batch, Cut  # noqa: E402
from rtx_lab.data.collate import collate  # noqa: E402
from rtx_lab.data.dialogues import DialogueDataset  # noqa: E402
from rtx_lab.data.made_dialogues import dialogues  # noqa: E402
from rtx_lab.models.pretrained import PretrainedSeq2Seq  # noqa: E402
from rtx_lab.tasks.summarise import SummariseTask  # noqa: E402

SEED, GLOBAL_BATCH, PEAK_LR, FASTER, EQUAL = 0, 64, 5e-3, 2.0, 0.995
HOW: Any = {
    "num_beams": 8, "max_new_tokens": 32, "no_repeat_ngram_size": 3, "length_penalty": 1.0, "early_stopping": False,
}  # fmt: skip
OURS, BASE, GROWN = "ours, longest first", "transformers", "transformers, at our mean"
Texts = dict[str, str]  # by the id of the row


def build(architecture: str, dataset: DialogueDataset) -> PretrainedSeq2Seq:
    node = yaml.safe_load((ROOT / "conf" / "model" / f"tiny_{architecture}.yaml").read_text(encoding="utf-8"))
    given: dict[str, Any] = {key: value for key, value in node.items() if not key.startswith("_")}
    given["vocab_size"] = dataset.vocab_size
    torch.manual_seed(SEED)
    return PretrainedSeq2Seq(**given)


def train(model: PretrainedSeq2Seq, task: SummariseTask, seconds: float, most_steps: int) -> None:
    """AdamW on every weight until the time is up; the rate falls evenly to nothing."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR)
    step, share, loss, start = 0, 0.0, torch.tensor(math.nan), time.perf_counter()
    model.train()
    while step < most_steps and (share := (time.perf_counter() - start) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = PEAK_LR * (1 - share)
        step += 1
        pieces = task.steps[step]
        total = sum(float(task.weight(batch)) for batch in pieces)
        loss = torch.stack([task.loss(model, batch)[0] for batch in pieces]).sum() / total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    print(f"trained: {step} steps of {GLOBAL_BATCH} in {time.perf_counter() - start:.0f} s, {loss:.2f} nats per token")


def write(model: PretrainedSeq2Seq, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.write(model.encode(batch["source"], batch["source_mask"]), **HOW)


def generate(network: Any, config: Any, batch: Batch) -> Tensor:
    mask = batch["source_mask"].long()
    return network.generate(input_ids=batch["source"], attention_mask=mask, generation_config=config)[:, 1:]


def settings_of(model: PretrainedSeq2Seq, batch: Batch) -> Any:
    """The GenerationConfig that `write` hands to transformers."""
    with mock.patch.object(model.network, "generate", wraps=model.network.generate) as listening:
        write(model, batch)
    return listening.call_args.kwargs["generation_config"]


def plain(model: PretrainedSeq2Seq) -> Any:
    """The same weights as transformers itself builds and runs them, with no settings of their own for writing."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder))
        network = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    network.generation_config = transformers.GenerationConfig()
    return network


def texts_of(dataset: DialogueDataset, begin: Callable[[], Iterable[Batch]], form: Callable[[Batch], Tensor]) -> Texts:
    """Write every row of the batches; ids are back in their places by the numbers that the batches carry."""
    split, texts = dataset.split("test"), {}
    for batch in begin():
        for row, ids in zip(batch["index"].tolist(), form(batch).tolist(), strict=True):
            texts[split.record(row)["id"]] = dataset.decode(ids)
    assert len(texts) == len(split), "every row once"
    return texts


def in_order(dataset: DialogueDataset, size: int) -> Iterable[Batch]:
    rows = range(dataset.num_rows("test"))
    return (collate(dataset.split("test"), rows[start : start + size]) for start in rows[::size])


class Round(NamedTuple):
    """Seconds of writing every row once."""

    wall: float
    processor: float


def measure(ways: dict[str, Callable[[], Texts]], repeats: int) -> dict[str, tuple[Texts, list[Round]]]:
    """What the ways write in a round to warm up, and the seconds of `repeats` rounds more."""
    found: dict[str, tuple[Texts, list[Round]]] = {name: (way(), []) for name, way in ways.items()}
    for name in [*ways] * repeats:
        wall, processor = time.perf_counter(), time.process_time()
        ways[name]()
        found[name][1].append(Round(time.perf_counter() - wall, time.process_time() - processor))
    return found


def medians(rounds: list[Round]) -> Round:
    return Round(*(statistics.median(seconds) for seconds in zip(*rounds, strict=True)))


def equal(some: Texts, others: Texts) -> int:
    return sum(text == others[row_id] for row_id, text in some.items())


def compare(model: PretrainedSeq2Seq, task: SummariseTask, options: argparse.Namespace) -> None:
    dataset, network = task.dataset, plain(model)
    config = settings_of(model, collate(dataset.split("test"), [0]))
    print(f"all write with {config.to_diff_dict()}\n")
    begin: dict[str, Callable[[], Iterable[Batch]]] = {OURS: partial(task.held_out, "test")}
    mean_rows = round(options.rows / len(list(begin[OURS]())))
    begin |= {BASE: partial(in_order, dataset, options.batch), GROWN: partial(in_order, dataset, mean_rows)}
    forms = {OURS: partial(write, model)} | dict.fromkeys((BASE, GROWN), partial(generate, network, config))
    ways = {name: partial(texts_of, dataset, begin[name], form) for name, form in forms.items()}
    found = measure(ways, options.repeats)
    show_table(begin, found)
    (base, base_cpu), (mine, mine_cpu), (grown, _) = (medians(found[name][1]) for name in (BASE, OURS, GROWN))
    verdict = {True: "reached", False: "NOT reached"}
    judged = "not judged by --quick" if options.quick else verdict[base >= FASTER * mine]
    print(
        f"\nours against transformers in batches of {options.batch}: {base / mine:.2f}x; bar {FASTER}x: {judged}",
        end=" ",
    )
    print(f"(processor time {base_cpu / mine_cpu:.2f}x)")
    share = f", {(base - grown) / (base - mine):.0%} of the time saved" if base > mine else ""
    print(f"of this by batch size alone (transformers in batches of {mean_rows}): {base / grown:.2f}x{share}")
    same, texts = equal(found[OURS][0], found[BASE][0]), set(found[BASE][0].values())
    shown = f"{same} of {options.rows} equal ({same / options.rows:.1%}), {len(texts)} distinct"
    print(f"texts in float32: {shown}; bar {EQUAL:.1%}: {verdict[same >= EQUAL * options.rows]}")
    for one in (model, network):
        one.double()
    same = equal(ways[OURS](), ways[BASE]())
    print(f"texts in float64: {same} of {options.rows} equal; bar all: {verdict[same == options.rows]}")


def show_table(begin: dict[str, Callable[[], Iterable[Batch]]], found: dict[str, tuple[Texts, list[Round]]]) -> None:
    wanted, base = found[BASE][0], medians(found[BASE][1]).wall
    print(
        "| way | rows a batch, mean | real source tokens | ms per row, median | lowest | processor | faster | equal |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, (texts, rounds) in found.items():
        masks = [batch["source_mask"] for batch in begin[name]()]
        real = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
        wall, processor = medians(rounds)
        times = " | ".join(f"{1e3 * value / len(texts):.2f}" for value in (wall, min(rounds).wall, processor))
        shown = f"{times} | {base / wall:.2f}x | {equal(texts, wanted)}"
        print(f"| {name} | {len(texts) / len(masks):.1f} | {real:.2f} | {shown} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 rows, 2 steps of training, one repeat")
    parser.add_argument("--architecture", choices=("t5", "mt5", "bart"), default="t5")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--budget", type=int, default=8192, help="tokens of a micro-batch; writing has 2/8 of it")
    parser.add_argument("--batch", type=int, default=8, help="rows of transformers' batches")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train-seconds", type=float, default=60)
    options = parser.parse_args()
    if options.quick:
        options.rows, options.repeats, options.train_seconds = 8, 1, math.inf
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {versions}")
    num_train, most_steps = (128, 2) if options.quick else (4000, 1_000_000)
    dataset = dialogues(num_train=num_train, num_validation=1, num_test=options.rows, tokenizer="dialogues")
    cut = Cut(seed=SEED, global_batch=GLOBAL_BATCH, micro_batch=1, micro_tokens=options.budget, eval_batch=128)
    task = SummariseTask(dataset=dataset, cut=cut, generation=Generation(num_beams=HOW["num_beams"]))
    lengths = dataset.split("test").source_lengths
    print(f"tiny_{options.architecture}, {options.rows} dialogues of {lengths.min()} to {lengths.max()} tokens")
    train(model := build(options.architecture, dataset), task, options.train_seconds, most_steps)
    compare(model, task, options)


if __name__ == "__main__":
    main()
