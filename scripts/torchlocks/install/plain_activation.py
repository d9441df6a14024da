"""Activation of an environment that sets no variables of its own: no shell, no py-rattler.

Many environments have neither activation scripts nor variables. For them, activating is putting their programs first on
`PATH` and naming the prefix; importing py-rattler, a shell and another Python would take several times as long.
"""

# Importing pathlib takes longer than all that is done here.
# ruff: noqa: PTH110, PTH118, PTH208
from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FOREIGN = ("CONDA_PREFIX", "CONDA_SHLVL", "CONDA_DEFAULT_ENV", "CONDA_PROMPT_MODIFIER", "PYTHONHOME", "VIRTUAL_ENV")
"""Marks of another activated environment, and what breaks any other Python than the one it was set for."""


def plain_activation(prefix: str, base: Mapping[str, str]) -> dict[str, str] | None:
    """Return `base` as it is after the environment at the absolute path `prefix` was activated.

    None where only a shell knows: on Windows, for an environment with activation scripts or variables, where bash
    reads a file of the user first (`BASH_ENV`), and where there is no environment or no `PATH`.
    """
    if os.name != "posix" or not base.get("PATH") or base.get("BASH_ENV"):
        return None
    if not os.path.exists(os.path.join(prefix, "bin", "python")):
        return None
    if os.path.lexists(os.path.join(prefix, "conda-meta", "state")):
        return None
    for folder in ("activate.d", "env_vars.d"):
        try:
            if os.listdir(os.path.join(prefix, "etc", "conda", folder)):
                return None
        except FileNotFoundError:
            continue
        except OSError:
            return None
    path = base["PATH"].split(os.pathsep)
    # A folder that is named twice counts once, and the empty one, which is the current folder, keeps its place last.
    entries = dict.fromkeys([os.path.join(prefix, "bin"), *filter(None, path), *path])
    return {
        **{name: value for name, value in base.items() if name not in FOREIGN},
        "PATH": os.pathsep.join(entries),
        "CONDA_SHLVL": "1",
        "CONDA_PREFIX": prefix,
        "CONDA_DEFAULT_ENV": prefix,
    }
