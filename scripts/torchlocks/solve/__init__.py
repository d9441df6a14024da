"""Solve match specs against channel records with py-rattler, and explain why a spec has no solution.

In: specs, virtual packages, and repodata of channels or of a snapshot. Out: records, or a SolveError with the solver's
explanation. `executable.py` is the conda executable that conda-lock drives. Read `solver.py` first.
"""
