"""Conda packages of our own, built from the committed locks: torch-verify, torch-env and its variants.

In: the locks and the suite. Out: recipes (`metapackages.py`, committed) and the channel `build/recipes` (`build.py`).
Read `metapackages.py` first.
"""
