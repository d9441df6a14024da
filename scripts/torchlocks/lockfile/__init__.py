"""Read and write lockfiles: conda-lock.yml, explicit files and pixi.lock, one module a format.

In: bytes of a file, which are not trusted. Out: a `Lock` (`models.py`) with the packages of each platform, or a
LockfileError with the line; and the same formats from a `Lock`. Read `models.py` first, then `formats.py`.
"""
