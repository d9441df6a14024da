"""Lock and verify on many machines: the same work as `locking` and `verify`, sent to the workers of a Dask scheduler.

In: the address of a scheduler, and cells to solve or an environment to verify. Out: the files that were locked, or one
verdict for each kind of GPU node. Read `lock.py` first; `verify.py` uses its connection to the scheduler.
"""
