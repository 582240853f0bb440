import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from rtx_lab.data import tokenizers
from rtx_lab.pricing.data import shape_of

FOLDER = Path(__file__).parents[2] / "conf" / "dataset"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_data_set_is_described_without_its_data_and_tokenizer(path, monkeypatch):
    monkeypatch.delenv("RTX_LAB_DATA", raising=False)
    monkeypatch.delenv("RTX_LAB_TOKENIZERS", raising=False)
    monkeypatch.setattr(tokenizers, "_download", lambda name: pytest.fail(f"{name} was asked for"))
    node = yaml.safe_load(path.read_text())
    node |= {"path": "/nowhere"} if path.stem == "text" else {}
    shape = shape_of(SimpleNamespace(dataset=node))
    assert min(shape.num_rows.values()) >= 1
    assert shape.dataset.vocab_size == node["vocab_size"]
    assert shape.dataset.max_source_length == node.get("max_source_length", shape.dataset.max_source_length)
    assert json.dumps(shape.num_rows)
