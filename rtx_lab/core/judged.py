"""What a finished run is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def judged_by(result: Mapping[str, Any]) -> str:
    """The metric of the test split that a result is judged by: the twin of what its task monitors."""
    return f"test/{str(result.get('monitor') or 'validation/accuracy').partition('/')[2]}"
