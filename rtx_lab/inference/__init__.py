"""How an answer is produced: free generation, ranking of options by likelihood, filling in masked tokens."""
