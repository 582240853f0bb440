"""Experiment suite for iterative reasoning, denoising and adaptation studies on one GPU."""

__version__ = "0.1.0"
