"""How fast the ops are beside what one could use instead: `python -m benchmarks`, `make bench`."""
