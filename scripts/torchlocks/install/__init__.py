"""Install a lock into a prefix, completely or not at all; check, repair and roll back prefixes.

In: a lock and a path. Out: an environment in which every file has the hash that its package declares. The order is
fetch.py, cache.py, link.py, swap.py; `fsck.py` compares an existing prefix with its packages.
Read `installer.py` first.
"""
