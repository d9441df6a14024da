"""Facts about PyTorch's CUDA builds: drivers, GPU architectures, and the packages that contain GPU code.

In: a CUDA version, or the packages of a lock. Out: the architectures, driver and libraries that follow from them.
Pure functions and data; nothing here looks at the machine (that is `torchlocks.host`). Read `packages.py`.
"""
