"""Settled configurations as the command line makes them, without data, tokenizers or network."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import rtx_lab.run  # noqa: F401  (registers the schema)
from rtx_lab.core.device import GB
from rtx_lab.core.memory import PROCESS_BYTES, USABLE
from rtx_lab.core.schema import settle

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(autouse=True)
def _nothing_at_hand(monkeypatch):
    """No data, no tokenizers; a download would be an error, since the tests run offline."""
    for name in ("RTX_LAB_DATA", "RTX_LAB_TOKENIZERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", "/nowhere")


@pytest.fixture
def settled():
    """Compose and settle overrides, as one would type them."""

    def make(*overrides):
        with initialize_config_dir(str(CONF), version_base=None):
            return settle(compose("config", overrides=["hardware=cpu", "hardware.num_threads=1", *overrides]))

    return make


@pytest.fixture
def card():
    """The overrides of a GPU in whose memory tensors may fill so many bytes."""
    return lambda room: ("hardware=rtx4090", f"hardware.memory_gb={(room + PROCESS_BYTES) / (USABLE * GB) + 1e-6:.6f}")
