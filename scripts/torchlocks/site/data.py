"""The data that the site's pages compare and search, as a script, which also loads from `file://`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cmp_to_key
from typing import Any

from torchlocks.diff.compare import is_newer
from torchlocks.lockfile.models import LockedPackage
from torchlocks.site.catalogue import Catalogue
from torchlocks.site.pick import gpu_names

_UNUSED = (
    *("evidence", "files", "lacks", "not_covered", "torch_build", "torchaudio", "torchvision", "verification"),
    "virtual_packages",
)
"""Fields of a platform in the index that the picker and the comparison do not use."""


def data_script(catalogue: Catalogue) -> str:
    """Return the text of `data.js`, which assigns `window.torchlocksData`.

    `packages` are [name, version, build, subdir, bytes, licence, channel, rank] with the last four as numbers (licence
    and channel count into lists); `rank` orders the versions of a name as conda does. `cells` maps `env/platform` to
    positions in `packages`, each as its distance to the one before, which takes half the bytes.
    """
    unique: dict[str, LockedPackage] = {}
    for cell in catalogue.cells:
        for package in cell.packages:
            unique.setdefault(package.url, package)
    ordered = sorted(unique.values(), key=lambda package: (package.name, package.url))
    position = {package.url: number for number, package in enumerate(ordered)}
    licences = sorted({package.license or "not recorded" for package in ordered})
    channels = sorted({package.channel for package in ordered})
    ranks = _ranks(ordered)
    data: dict[str, Any] = {
        # Without what the scripts do not use: it would be two thirds of the file.
        "index": catalogue.index.model_dump(
            mode="json",
            exclude={
                "not_locked": True,
                "left_out": True,
                "environments": {"__all__": {"channels": True, "platforms": {"__all__": set(_UNUSED)}}},
            },
        ),
        "gpus": dict(gpu_names()),
        "licences": licences,
        "channels": channels,
        "packages": [
            [
                package.name,
                package.version,
                package.build,
                package.subdir,
                package.size,
                licences.index(package.license or "not recorded"),
                channels.index(package.channel),
                ranks[package.name, package.version],
            ]
            for package in ordered
        ],
        "cells": {
            f"{cell.target.env}/{cell.target.platform}": _distances(
                [position[package.url] for package in cell.packages]
            )
            for cell in catalogue.cells
        },
    }
    return f"window.torchlocksData = {json.dumps(data, separators=(',', ':'), ensure_ascii=False)};\n"


def _distances(positions: Sequence[int]) -> list[int]:
    return [position - before for position, before in zip(positions, (0, *positions), strict=False)]


def _ranks(packages: list[LockedPackage]) -> dict[tuple[str, str], int]:
    """Return the rank of each version among all versions of its name, in conda's order."""
    versions: dict[str, set[str]] = {}
    for package in packages:
        versions.setdefault(package.name, set()).add(package.version)
    return {
        (name, version): rank
        for name, found in versions.items()
        for rank, version in enumerate(sorted(found, key=cmp_to_key(_order)))
    }


def _order(left: str, right: str) -> int:
    """Return a negative number if `left` is older. Equal versions that are written differently are ordered as text."""
    if is_newer(left, right):
        return -1
    return 1 if is_newer(right, left) else (left > right) - (left < right)
