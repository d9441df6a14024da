"""The command line: which verbs there are, and how it ends. The verbs themselves are in `commands`."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import NoReturn

import click

from torchlocks import __version__
from torchlocks.errors import InterruptedByUserError, TorchlocksError

INTERNAL_ERROR = 70
"""Exit code of a bug in torchlocks itself (EX_SOFTWARE of sysexits.h)."""

#: The module of `torchlocks.commands` that holds each verb: only the one that is used is imported.
VERBS = {
    "env": "environments",
    "verify": "environments",
    "run": "environments",
    "shell": "environments",
    "rollback": "environments",
    "fsck": "environments",
    "matrix": "locks",
    "render": "locks",
    "lock": "locks",
    "update": "locks",
    "check": "locks",
    "why": "locks",
    "diff": "locks",
    "install": "installing",
    "bundle": "installing",
    "channel": "project",
    "recipes": "project",
    "bench": "project",
}


class _Verbs(click.Group):
    """A group whose verbs are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"torchlocks.commands.{VERBS[cmd_name]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="torchlocks")
def cli() -> None:
    """Reproducible PyTorch environments: rendered, locked, installed and verified."""


def main() -> NoReturn:
    """The `torchlocks` command: run a verb, print errors as errors, leave with their exit code."""
    from torchlocks.leave import leave

    leave(_run())


def _run() -> int:
    from torchlocks.console import print_error

    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print_error(InterruptedByUserError("Interrupted. Nothing half-made is left in place; run it again to go on."))
        return InterruptedByUserError.exit_code
    except TorchlocksError as error:
        print_error(error)
        return error.exit_code
    except BrokenPipeError:
        return 1
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if os.environ.get("TORCHLOCKS_DEBUG"):
            traceback.print_exc()
        print(
            f"error: torchlocks itself failed: {type(error).__name__}: {error}\n"
            "  fix:   this is a bug; run again with TORCHLOCKS_DEBUG=1 and report what it prints",
            file=sys.stderr,
        )
        return INTERNAL_ERROR
    return 0


if __name__ == "__main__":
    main()
