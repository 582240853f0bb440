"""What a price has to know of a dataset: its lengths and its rows, told without opening data."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass

from rtx_lab.core.components import bind
from rtx_lab.core.schema import RunConfig
from rtx_lab.data.dialogues import DialogueDataset
from rtx_lab.data.labelled import LabelledTexts
from rtx_lab.data.segments import SegmentDataset
from rtx_lab.data.text import SPLITS, TextDataset
from rtx_lab.data.tokenizers import STAND_IN

Dataset = TextDataset | SegmentDataset | LabelledTexts | DialogueDataset


@dataclass(frozen=True, slots=True)
class DataShape:
    """A dataset over a tokenizer without words, and the rows of its splits as generated or published.

    Its own tokenizer may be out of reach, and neither lengths nor rows depend on it.
    """

    dataset: Dataset
    num_rows: dict[str, int]


def shape_of(run: RunConfig) -> DataShape:
    """Describe a run's dataset; equal ones are described once. A local folder may hold other counts than the hub."""
    return _describe(json.dumps(run.dataset, sort_keys=True), os.environ.get("RTX_LAB_DATA"))


@functools.lru_cache(maxsize=256)
def _describe(text: str, _root: str | None) -> DataShape:
    node = json.loads(text)
    dataset = bind({**node, "tokenizer": STAND_IN} if "tokenizer" in node else node)()
    return DataShape(dataset, {name: dataset.num_rows(name) for name in SPLITS})
