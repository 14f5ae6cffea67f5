"""Builders of the benchmarks that need no hub: mini (synthesised) and field (recorded)."""
