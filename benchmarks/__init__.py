"""Measurements that take long: run with `python -m benchmarks.NAME`; results go to docs/results/."""
