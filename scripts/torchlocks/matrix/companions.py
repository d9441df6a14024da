"""Which environments have torchvision or torchaudio, for whoever asks an environment that lacks it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torchlocks.matrix.model import Matrix

COMPANIONS = ("torchvision", "torchaudio")

MOST = 4
"""Environments that are named: the nearest."""


def environments_with(matrix: Matrix, names: Collection[str], platform: str, like: str) -> tuple[str, ...]:
    """Return the environments on `platform` that have all companions of `names`, at most `MOST`.

    Those of the row of environment `like` come first, then those of its accelerator, the nearest CUDA version first.
    """
    row, rows = matrix.row_of(like), list(matrix.rows)
    accelerator = matrix.rows[row].accelerator if row in matrix.rows else None
    here = rows.index(row) if row in matrix.rows else 0
    found = [
        target
        for target in matrix.targets()
        if target.platform == platform and all(getattr(target, name) for name in names)
    ]
    found.sort(
        key=lambda target: (target.accelerator != accelerator, abs(rows.index(matrix.row_of(target.env)) - here))
    )
    return tuple(target.env for target in found[:MOST])


def advice(matrix: Matrix, asked: Iterable[str], held: Collection[str], platform: str, like: str) -> str | None:
    """Return a sentence that names the environments with the companions in `asked` that an environment lacks.

    `asked` are names of packages, `held` the packages of environment `like`. None if it lacks none of them.
    """
    missing = [name for name in COMPANIONS if name in asked and name not in held]
    if not missing:
        return None
    names = " and ".join(missing)
    there = environments_with(matrix, missing, platform, like)
    if not there:
        return f"no environment has {names} on {platform}"
    return f"environments that have {names} on {platform}: {', '.join(there)}"
