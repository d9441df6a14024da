"""Measure what torchlocks costs: ratios to a floor or a peer of the same run. Not part of the wheel.

In: a snapshot of channel records, or the local channel. Out: `reports/bench.md`, `bench.json` and a plot.
Read `run.py` first (which benchmarks run), then `model.py` (what a measurement is) and `report.py`.
"""
