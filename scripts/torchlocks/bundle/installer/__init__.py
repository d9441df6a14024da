"""The installer inside a bundle: a folder of packages and a lock → an environment, without any network.

This package is copied into every bundle as the folder `installer`, beside `install.py`, so its modules import only the
standard library of Python 3.8 and, by relative names, each other. It repeats some of what py-rattler does for the rest
of torchlocks. Every archive is compared with the lock before anything is written, the packages are linked into a hidden
folder beside the prefix, and one rename makes it the environment.

Read `command.py` first. `reading` checks the bundle, `extract` (with `zstd`) and `link` (with `prefixes`) install it.

A `.conda` file is a zip of `.tar.zst` files, and the standard library reads Zstandard only from Python 3.14 on.
Older Pythons use the first of these that is available: the module `backports.zstd` or `zstandard`, the system's libzstd
(nearly every Linux has it, for its package manager) or the `zstd` command. Without any of them a portable bundle is
required, in which every package is a `.tar.bz2`.

Link scripts of packages are not run, and bytecode is not compiled. Package layout: CEP 34; prefix records: the
documentation of conda-meta in conda; both as observed in what conda and py-rattler write.
"""
