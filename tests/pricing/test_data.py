import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from rtx_lab.data import tokenizers
from rtx_lab.pricing.data import shape_of

FOLDER = Path(__file__).parents[2] / "conf" / "dataset"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_data_set_is_described_without_its_data_and_tokenizer(path, monkeypatch, tmp_path):
    monkeypatch.delenv("RTX_LAB_DATA", raising=False)
    monkeypatch.delenv("RTX_LAB_TOKENIZERS", raising=False)
    monkeypatch.setattr(tokenizers, "_from_hub", lambda name: pytest.fail(f"{name} was asked for"))
    node = yaml.safe_load(path.read_text())
    for name in node.pop("defaults", []):  # an option that changes another one
        node = node if name == "_self_" else yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) | node
    node |= {"path": "/nowhere"} if path.stem == "text" else {}
    if path.stem == "dialogue_csv":  # its rows are counted: nobody has published how many there are
        for name in ("train", "dev", "test"):
            rows = "".join(f"{name}_{row},#Person1#: Hi,Hi\n" for row in range(9))
            (tmp_path / f"{name}.csv").write_text(f"fname,dialogue,summary\n{rows}")
        node |= {"path": str(tmp_path), "num_validation": 3}
    node["vocab_size"] = node["vocab_size"] or 1500  # the model's, for dialogues
    shape = shape_of(SimpleNamespace(dataset=node))
    assert min(shape.num_rows.values()) >= 1
    assert shape.dataset.vocab_size == node["vocab_size"]
    assert shape.dataset.max_source_length == node.get("max_source_length", shape.dataset.max_source_length)
    assert json.dumps(shape.num_rows)
