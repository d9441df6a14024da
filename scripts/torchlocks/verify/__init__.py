"""Prove an environment: run the torch suite (`tests/torch`) with the environment's own Python.

In: a prefix and what it is expected to be (CPU, or a CUDA version). Out: a verdict with a headline, and reports as
JSON, JUnit XML and HTML. Read `suite.py` first (runs it), then `verdict.py` (reads its result).
"""
