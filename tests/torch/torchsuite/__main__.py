"""`python -m torchsuite` is torch-verify."""

import sys

from torchsuite.command import main

if __name__ == "__main__":
    sys.exit(main())
