"""Benchmarks: run one from the repository as `python -m benchmarks.flow.bench_tvl1`."""

import sys
from pathlib import Path

# They measure on the cases of the tests, and their peers are oracles there.
sys.path[:0] = [str(folder) for folder in Path(__file__).parents[1].glob("tests/support/*/")]
