"""Measure what torchlocks costs: ratios to a floor or a peer of the same run. Not part of the wheel.

In: a snapshot of channel records, or the local channel. Out: `reports/bench.md`, `bench.json` and a plot.
Read `benchmark.py` first (the parts), then `model.py` (what a measurement is) and `run.py` (how it is run).
"""
