"""`python -m torchsuite` is torch-verify; `python -I …/torchsuite/__main__.py` is, too."""

import os
import sys

if not __package__:
    # Run as a file by an isolated Python, which searches its folder for nothing.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120

from torchsuite.command import main

if __name__ == "__main__":
    sys.exit(main())
