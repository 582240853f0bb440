"""L3: what a batch means: its weight, its loss and its score."""
