"""Layers: pair maps between slots, halting, attention, losses. Nothing here knows what a batch means."""
