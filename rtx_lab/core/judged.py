"""What a finished run is judged by."""

from __future__ import annotations


def judged_by(monitor: str | None) -> str:
    """The metric of the test split that a run is judged by: the twin of what its task monitors."""
    return f"test/{(monitor or 'validation/accuracy').partition('/')[2]}"
