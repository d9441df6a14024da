"""Lock, check and verify on the workers of a Dask scheduler: tasks of other packages, sent to other machines.

In: the address of a scheduler, and cells to solve or an environment to verify. Out: lockfiles, or a verdict for each
node or kind of node. Read `lock.py` first; `verify.py` uses its connection to the scheduler.
"""
