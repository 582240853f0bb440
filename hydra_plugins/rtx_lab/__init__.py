"""Hands rtx_lab.sweep to Hydra, which accepts plugins from a package of this name alone."""
