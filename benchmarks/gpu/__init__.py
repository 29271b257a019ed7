"""What the benchmarks need on a GPU alone: `python -m benchmarks --device cuda`."""
