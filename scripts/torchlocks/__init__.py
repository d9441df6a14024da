"""torchlocks: conda lockfiles and recipes for PyTorch, proven by a test suite.

The modules read in the order the data flows, and imports only point upwards:
errors, layout, matrix, render, solver, lockfile, lock, check, host, channel, install, verify, cli.
"""

__version__ = "0.1.0"
