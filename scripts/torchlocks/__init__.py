"""torchlocks: conda lockfiles and recipes for PyTorch, verified by a test suite.

One package a stage, in the order in which data flows; each imports only from those below it (pyproject.toml has the
contract, `make lint` checks it). From the bottom: core, pages, lockfile, cuda, matrix, host, solve, diff, local_channel
and export, install, verify, locking, extend, bundle and publish and dask, check, update, site, workflow, cli.
"""

__version__ = "0.1.0"
