"""Compare two locks: added, removed and changed packages, and what that means for torch, CUDA and the driver.

In: two lockfiles, `REV:file` of git, or prefixes. Out: a comparison as text, Markdown, HTML or JSON.
Read `compare.py` first; `read.py` finds the two sides, `report.py` writes the result.
"""
