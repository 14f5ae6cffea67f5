"""Audio, shards, the training mixture, and the builders of benchmarks."""
