"""Lock an `environment.yml` on top of a base lock whose packages do not change.

In: a base (an environment of this repository, a path, a URL, a tag of a git repository) and an environment file.
Out: a lock with all packages of the base and the additions, or a ContradictionError that names both sides.
Read `lock.py` first, then `base.py` (finds the base), `environment_file.py` (reads the file) and
`conflict.py` (explains a failure).
"""
