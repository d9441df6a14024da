"""A lock → an OCI image layout, without a container engine.

In: a lock (`torchlocks.lockfile`), the package cache and a base (an OCI layout, a rootfs tar, or none). Out: a folder
or tar in the OCI image layout, with the environment in a few layers, its configuration, and the bill of materials as a
referrer; the same bytes for the same lock, base and compression.
Read `write.py` first. `base.py` and `scan.py` read untrusted files.
"""
