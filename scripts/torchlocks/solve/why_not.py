"""Solve an environment with additional specs, to get the solver's reasons if there is no solution."""

from __future__ import annotations

from collections.abc import Sequence

from torchlocks.matrix.render import requested
from torchlocks.matrix.target import Target
from torchlocks.solve.repodata import RecordSource
from torchlocks.solve.solver import SolveRequest, generic_virtual_packages, solve


def try_with(target: Target, rendered: str, extra: Sequence[str], source: RecordSource) -> list[str]:
    """Solve the rendered environment together with the match specs `extra`.

    Returns the packages that `extra` would install, as "name version build". Raises SolveError with the
    conflict if there is no solution, and ChannelUnreachableError if a live channel cannot be read.
    """
    from rattler import MatchSpec

    request = SolveRequest(
        channels=target.channels,
        platform=target.platform,
        specs=(*requested(rendered), *extra),
        virtual_packages=generic_virtual_packages(target.virtual_packages),
    )
    records = {record.name.normalized: record for record in solve(request, source)}
    names = [spec.name.normalized for spec in (MatchSpec(text, strict=False) for text in extra) if spec.name]
    return [f"{name} {records[name].version} {records[name].build}" for name in names if name in records]
