"""MKL and oneDNN: which versions run, as `torch.__config__.show()` prints them.

torch asks MKL (`mkl_get_version_string`) and oneDNN (`dnnl_version`) themselves, so these are the versions that were
loaded, not those that torch was compiled against.
"""

from __future__ import annotations

import re

#: The packages that contain each library, on conda-forge, in `defaults` and on PyPI.
PACKAGES = {"MKL": ("mkl",), "oneDNN": ("onednn", "mkl-dnn")}

_PATTERNS = {
    "MKL": r"Math Kernel Library Version (\d+(?:\.\d+)+)",
    "oneDNN": r"(?:MKL-DNN|oneDNN) v(\d+(?:\.\d+)+)",
}


def running(configuration: str) -> dict[str, str]:
    """The version of each library that a configuration names: {"MKL": "2024.2", "oneDNN": "3.7.1"}."""
    return {name: found[1] for name, pattern in _PATTERNS.items() if (found := re.search(pattern, configuration))}


def agree(version: str, locked: str) -> bool:
    """Whether major and minor are the same: MKL does not print its update number."""
    mine, theirs = (re.findall(r"\d+", each)[:2] for each in (version, locked))
    return [int(each) for each in mine] == [int(each) for each in theirs]
