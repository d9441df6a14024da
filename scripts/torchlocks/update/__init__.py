"""Move locks to newer packages: all of them, or one package and what must move with it.

In: the committed locks and channel records. Out: changed lockfiles, and the text of a pull request that describes them.
Read `relock.py` first; `pull_request.py` writes the text.
"""
