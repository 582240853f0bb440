"""One architecture per file, and what they share: range checks and parameter counts."""
