"""L0: contracts, run directory, checkpoints, device. Standard library and torch only."""
