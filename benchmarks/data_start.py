"""Time from opening a data set of 100,000 rows to its first batch, against datasets.map.

    python benchmarks/data_start.py [--rows 100000]

Prints the first start (rows made, encoded, stored) and the second (mapped from the cache), and the same for
`datasets`: map with a warm cache of its own, then the first batch. Needs no network. Bar: second start <= 2 s.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

parser = argparse.ArgumentParser(description="Time from opening a data set to its first batch.")
parser.add_argument("--rows", type=int, default=100_000)
ROWS = parser.parse_args().rows
BATCH = 64


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = action()
    return time.perf_counter() - start, value


def ours() -> None:
    from rtx_lab.core.types import Cut
    from rtx_lab.data.generated import reasoning
    from rtx_lab.data.loading import StepDataset, step_loader

    split = reasoning(num_train=ROWS).split("train")
    steps = StepDataset(split, Cut(seed=1, global_batch=BATCH, micro_batch=BATCH))
    next(iter(step_loader(steps, start=0, stop=1)))


def theirs(texts: str) -> None:
    from datasets import load_dataset

    from rtx_lab.data.tokenizers import load_tokenizer

    backend = load_tokenizer("words").backend
    rows = load_dataset(
        "json", data_files=texts, split="train", cache_dir=os.environ["RTX_LAB_CACHE"] + "/datasets_map"
    )

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {key: [one.ids for one in backend.encode_batch(batch[key])] for key in ("source", "target")}

    encoded = rows.map(encode, batched=True).shuffle(seed=1)  # pyright: ignore[reportAttributeAccessIssue]
    encoded.set_format("numpy")
    encoded[:BATCH]


def write_texts(path: str) -> None:
    import json

    from rtx_lab.data.generated import reasoning

    with open(path, "w", encoding="utf-8") as file:
        for item in reasoning(num_train=ROWS).sources["train"].items():
            file.write(json.dumps({"source": item.source, "target": item.target}) + "\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RTX_LAB_CACHE"] = folder
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        import datasets  # its import time is not counted
        import torch

        texts = f"{folder}/texts.jsonl"
        write_texts(texts)
        first, _ = timed(ours)
        second = min(timed(ours)[0] for _ in range(3))
        map_first, _ = timed(lambda: theirs(texts))
        map_second = min(timed(lambda: theirs(texts))[0] for _ in range(3))
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, datasets {datasets.__version__}")
    print(f"{ROWS} rows, batch {BATCH}; rtx_lab also makes the rows at its first start, datasets reads them from JSON")
    print(f"rtx_lab       first start {first:6.2f} s   second start {second:6.3f} s   (bar 2 s)")
    print(f"datasets.map  first start {map_first:6.2f} s   second start {map_second:6.3f} s")
    print(f"ratio of second starts (rtx_lab / datasets.map): {second / map_second:.2f}")


if __name__ == "__main__":
    main()
