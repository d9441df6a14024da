"""The hidden verb action, which `action.yml` calls."""

from __future__ import annotations

import os

import click


@click.command(hidden=True)
@click.argument("step", type=click.Choice(["plan", "install"]))
def action(step: str) -> None:
    """Run a step of the GitHub Action; its inputs are in INPUT_… variables."""
    from torchlocks.cli.action import activate_for_later_steps, make_plan, read_inputs, write_outputs, write_summary
    from torchlocks.cli.action import install as install_planned
    from torchlocks.cli.console import make_progress
    from torchlocks.core.errors import TorchlocksError
    from torchlocks.core.layout import find_layout
    from torchlocks.host.detect import host_platform

    try:
        inputs = read_inputs(os.environ)
        layout = find_layout()
        plan = make_plan(inputs, layout, host_platform())
        if step == "plan":
            write_outputs(os.environ, key=plan.key, paths="\n".join(map(str, plan.paths)), name=plan.name)
            return
        result = install_planned(inputs, plan, layout, make_progress())
        activate_for_later_steps(plan.prefix, os.environ)
        write_outputs(os.environ, prefix=str(plan.prefix), name=plan.name)
        write_summary(os.environ, f"**{plan.name}** in `{plan.prefix}`: {result}\n")
        click.echo(f"{plan.name} in {plan.prefix}: {result}")
    except TorchlocksError as error:
        # An annotation on the workflow's page; the complete error is in the log.
        escaped = error.what.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        click.echo(f"::error title=torchlocks::{escaped}")
        raise
