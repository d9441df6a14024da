"""The rules of `check`, one small function each, grouped by subject.

A rule takes a lock and its context and yields findings; it reads no network and changes nothing.
Read `packages.py` for the simplest ones; `torchlocks.check.model` has the decorator that registers them.
"""
