"""How an answer is produced: free generation (greedy, beam) and ranking of options by likelihood."""
