"""The verb verify with `--scheduler`."""

from __future__ import annotations

import json
from typing import Literal

import click

from torchlocks.cli.commands.shared import installed_prefix


def verify_on_nodes(
    env_name: str,
    select: str | None,
    as_json: bool,
    scheduler: str,
    per: Literal["node", "kind", "worker"],
    install: bool,
) -> None:
    """Verify on the nodes of a scheduler and print each verdict. Raises VerificationError unless all passed."""
    from torchlocks.cli.console import make_progress
    from torchlocks.core.errors import FleetError, VerificationError
    from torchlocks.core.layout import find_layout
    from torchlocks.dask.verify import FleetRequest, as_data, as_text, installed_task, lock_task, verify_fleet

    layout = find_layout()
    if not install:
        installed_prefix(env_name)
    make_task = (lock_task if install else installed_task)(layout, env_name, select)
    request = FleetRequest(env=env_name, address=scheduler, per=per, make_task=make_task)
    results = verify_fleet(request, layout.reports, make_progress(quiet=as_json))
    click.echo(json.dumps(as_data(results), indent=2) if as_json else as_text(results))
    bad = [each.node.name for each in results if not each.ok]
    if broken := [each.node.name for each in results if isinstance(each.error, FleetError)]:
        raise FleetError(
            f"{env_name} is not verified on {len(bad)} of {len(results)}: {', '.join(bad)}; "
            f"on {', '.join(broken)} the worker gave no verdict.",
            where=request.address,
            fix="the lines above have the reasons; see the workers' logs",
        )
    if bad:
        raise VerificationError(
            f"{env_name} is not verified on {len(bad)} of {len(results)}: {', '.join(bad)}.",
            where=f"reports/{env_name}@NODE.json",
            fix="see the reports; `torchlocks doctor` on such a node shows whether the lock can run there",
        )
