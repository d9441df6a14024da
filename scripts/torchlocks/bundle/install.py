"""Install this bundle: python3 install.py PREFIX (README.txt has the rest).

Checks the version of Python in syntax that every Python parses, then runs the package `installer` beside it.
"""

import os
import sys

if sys.version_info < (3, 8):  # noqa: UP036 - shipped, and run by whatever Python a machine has
    sys.exit(
        "error: install.py needs Python 3.8 or newer; this is Python %d.%d\n"  # noqa: UP031
        "  fix:   run it with a newer one (python3.8 and so on), or give the lock to a conda client: see README.txt"
        % sys.version_info[:2]
    )

# An isolated Python does not look beside the script, and a bundle may be on a read-only disk.
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120

from installer.command import main  # type: ignore[import-not-found] # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
