"""A lock in the forms that other tools and auditors use.

In: a lock. Out: requirements for pip, pixi, container and Slurm files, modules (`formats.py`); a bill of materials in
CycloneDX or SPDX (`sbom.py`); licences by kind; signatures of locks and attestations of packages.
Read `formats.py` first.
"""
