"""Check lockfiles: locks in, findings out.

In: the lockfiles of a folder or single files, with the matrix for locks of this repository; no network unless a base
is fetched. Out: findings, each with the id of its rule, a severity and a place, as text or for programs (`report.py`).
Read `model.py` first (what a finding and a rule are), then `lock.py` (one lock) and `repository.py` (the matrix).
"""
