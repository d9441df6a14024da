"""What this machine can run: its driver, GPUs and C library, and which environments are compatible with them.

In: the machine, or a record of one as JSON. Out: a `Host` (`detect.py`), the compatibility of each environment with it
(`compatibility.py`), and the report of `torchlocks doctor` (`doctor.py`). Read `detect.py` first.
"""
