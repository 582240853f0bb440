"""Answers, intervals and slot statistics: pure functions from text and tensors to numbers."""
