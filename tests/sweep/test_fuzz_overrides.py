"""60 wrong command lines of `benchmarks/fuzz_overrides.py`, which has the full count."""

import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "fuzz_overrides.py"


@pytest.mark.slow
def test_wrong_command_lines_are_refused_and_typos_recognised():
    failures, tally = runpy.run_path(str(BENCHMARK))["fuzz"](60, 20)
    assert failures == []
    hits, misses = (sum(count for (_, what), count in tally.items() if what == name) for name in ("hit", "miss"))
    assert hits + misses > 25
    assert hits >= 0.9 * (hits + misses)
