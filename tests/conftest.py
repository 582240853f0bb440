"""Every test: the slow twins importable, a cache and a working directory of its own, no network."""

import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "reference")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_configure():
    """What starts tests in the background may have SIGINT ignored, which every process of theirs would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    """`slow`, `gpu` and `network` tests skip themselves where they cannot or should not run."""
    import torch

    chosen = config.getoption("-m")
    for item in items:
        if "slow" in item.keywords and "slow" not in chosen:
            item.add_marker(pytest.mark.skip(reason="minutes long: pytest -m slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if "network" in item.keywords and "network" not in chosen:
            item.add_marker(pytest.mark.skip(reason="needs the internet: pytest -m network"))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """One tokenised-data cache for the whole session, apart from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        if "RTX_LAB_CACHE" not in os.environ:
            patch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
