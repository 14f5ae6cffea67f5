"""Metrics as pure functions: (references, candidates) to a value and its per-item parts."""
