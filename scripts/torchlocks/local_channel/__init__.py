"""Build a conda channel from PyPI wheels and the running CPython, for machines that cannot reach conda-forge.

In: the recipes in `recipes/local`, the wheels that they pin, and this interpreter. Out: `build/channel` with packages
and repodata. Read `build.py` first, then `recipes.py` (what is built) and `wheels.py` (where it comes from).
"""
