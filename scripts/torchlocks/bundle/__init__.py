"""A lock and its packages as one archive that installs without a network.

In: a lock (`torchlocks.lockfile`) and a package cache or channel. Out: a `.tar` with the packages as a conda channel,
the lock, `install.py` and a README; or, with `unpack`, the packages of such an archive in the local cache.
Read `write.py` first. `installer.py` is shipped inside the archive and imports nothing of torchlocks.
"""
