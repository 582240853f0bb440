"""L6: what happens between the command line and a run: gate, diagnosis, sweeps."""
