"""The rules of `check`, one small function each, grouped by subject.

A rule gets a lock and its context and yields problems; it uses no network and changes nothing. Read `packages.py` for
the simplest ones; `torchlocks.check.model` has the decorator that registers them.
"""
