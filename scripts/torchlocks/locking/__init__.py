"""Solve the rows of the matrix with conda-lock and write `locks/<environment>/`.

In: rows (`torchlocks.matrix`) and channel records, live or from a snapshot. Out: the lockfiles in three formats, in the
same bytes for the same input. Read `environments.py` first (all rows), then `cell.py` (one environment and platform).
"""
