"""The `torchlocks` command: a group whose verbs are imported on use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

from torchlocks import __version__
from torchlocks.cli.overview import overview
from torchlocks.cli.verbs import VERSION


class _Verbs(click.Group):
    """A group whose verbs are imported on use. `modules` maps each verb to its module."""

    modules: Mapping[str, str]

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.modules:
            return None
        module = importlib.import_module(f"torchlocks.cli.commands.{self.modules[cmd_name]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            if near := get_close_matches(args[0], self.list_commands(ctx), n=1):
                ctx.fail(f"{error.message} Did you mean {near[0]!r}?")
            raise

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the same text as without click, with whole sentences, which click would truncate to one line."""
        formatter.write(overview(formatter.width))


def root(modules: Mapping[str, str]) -> click.Group:
    """Return the command; `modules` maps the name of each verb to its module in this package."""

    @click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(__version__, message=VERSION)
    def cli() -> None:
        """Reproducible PyTorch environments: rendered, locked, installed and verified."""

    assert isinstance(cli, _Verbs)
    cli.modules = modules
    return cli
