"""What a GPU machine is asked: `python -m benchmarks.gpu`, and `python -m benchmarks.gpu plot FILE.json`."""
