"""A lock and its packages as one archive that installs without a network.

In: a lock (`torchlocks.lockfile`) and a package cache or channel. Out: a `.tar` with the packages as a conda channel,
the lock, an installer and a README; or, with `unpack`, the packages of such an archive in the local cache.
Read `write.py` first. `install.py` and the package `installer` are copied into the archive and import nothing of the
rest of torchlocks.
"""
