"""The licences of a lock's packages: SPDX expressions if possible, and kinds.

The text is from the channel's record of a package, as in pixi.lock. The kind of a licence is from ScanCode's licence
index in license-expression; licences of conda packages without an SPDX id are in `_KNOWN`. This sorts packages for a
reader and is no legal advice: the licence text inside each package is binding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from torchlocks.lockfile.models import LockedPackage

Kind = Literal["permissive", "weak-copyleft", "copyleft", "proprietary", "unknown"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""From the least to the most restrictive."""

MEANING: Mapping[Kind, str] = {
    "permissive": "asks for notices at most",
    "weak-copyleft": "changes to the package itself must stay open (LGPL, MPL, GPL with a runtime exception)",
    "copyleft": "works made from it must be under the same licence (GPL, AGPL)",
    "proprietary": "a vendor's terms: redistribution may be limited (NVIDIA, Intel, Microsoft)",
    "unknown": "the channel names none, or one that is not known here",
}

_KNOWN: Mapping[str, Kind] = {
    "NVIDIA": "proprietary",
    "cuDNN": "proprietary",
    "cuSPARSELt": "proprietary",
    "cuTENSOR": "proprietary",
    "CUDA": "proprietary",
    "NCCL": "permissive",
    "IntelSimplified": "proprietary",
    "ProprietaryIntel": "proprietary",
    "Microsoft": "proprietary",
    "Proprietary": "proprietary",
    "Public-Domain": "permissive",
    "PUBLIC-DOMAIN": "permissive",
}
"""Kinds of the `LicenseRef-…` names of conda packages, by prefix."""

_CATEGORIES: Mapping[str, Kind] = {
    "Permissive": "permissive",
    "Public Domain": "permissive",
    "CLA": "permissive",
    "Copyleft Limited": "weak-copyleft",
    "Copyleft": "copyleft",
    "Commercial": "proprietary",
    "Free Restricted": "proprietary",
    "Proprietary Free": "proprietary",
    "Source-available": "proprietary",
}
"""ScanCode's categories of licences, as ours."""

_WORDS: tuple[tuple[str, Kind], ...] = (
    (r"\bL?GPL.*exception|\bLGPL|\bMPL|\bEPL", "weak-copyleft"),
    (r"\bA?GPL", "copyleft"),
    (r"\b(EULA|proprietary|commercial)\b", "proprietary"),
    (r"^(BSD|MIT|Apache|ISC|Zlib|PSF)\b", "permissive"),
)
"""Kinds by words, for texts that are not expressions (`GPL3+, partial:GCCRLE`). The strictest counts."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    """A package's licence: the channel's `text`, the SPDX `expression` that it is (None when it is none), its kind."""

    text: str | None
    expression: str | None
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class PackageLicence:
    """One package and its licence."""

    package: LockedPackage
    licence: Licence


def licences_of(packages: Sequence[LockedPackage]) -> tuple[PackageLicence, ...]:
    """Return the licence of every package, sorted by name."""
    return tuple(
        PackageLicence(package=package, licence=read_licence(package.license))
        for package in sorted(packages, key=lambda package: package.name)
    )


@lru_cache(maxsize=1024)
def read_licence(text: str | None) -> Licence:
    """Parse the licence text of a channel's record. Texts that are not understood have the kind `unknown`."""
    if not text or not text.strip():
        return Licence(text=None, expression=None, kind="unknown")
    parsed = _parse(text)
    if parsed is None:
        matching = [kind for pattern, kind in _WORDS if re.search(pattern, text, re.IGNORECASE)]
        return Licence(text=text, expression=None, kind=max(matching, key=KINDS.index, default="unknown"))
    return Licence(text=text, expression=str(parsed), kind=_kind(parsed))


def _parse(text: str) -> Any:
    """Return the expression as license-expression's tree, or None if `text` is not an SPDX expression."""
    try:
        parsed = _spdx().parse(text)
    except Exception:  # boolean.py and license-expression each have errors of their own, and trip over "()".
        return None
    if parsed is None or any(
        not symbol.key.startswith("LicenseRef-") and symbol.key not in _by_key()
        for symbol in _spdx().license_symbols(parsed, unique=True)
    ):
        return None
    return parsed


def _kind(node: Any) -> Kind:
    """Return the kind of an expression: of an AND the strictest part, of an OR the least strict."""
    from boolean import AND, OR
    from license_expression import LicenseWithExceptionSymbol

    if isinstance(node, AND):
        return max(map(_kind, node.args), key=KINDS.index)
    if isinstance(node, OR):
        return min(map(_kind, node.args), key=KINDS.index)
    if isinstance(node, LicenseWithExceptionSymbol):
        # An exception relaxes its licence (GCC's runtime exception, LLVM's), so its kind counts for both.
        return _kind_of_key(node.exception_symbol.key)
    return _kind_of_key(node.key)


def _kind_of_key(key: str) -> Kind:
    if key.startswith("LicenseRef-"):
        name = key.removeprefix("LicenseRef-")
        return next((kind for start, kind in _KNOWN.items() if name.startswith(start)), "unknown")
    return _CATEGORIES.get(_by_key().get(key, ""), "unknown")


@lru_cache(maxsize=1)
def _spdx() -> Any:
    """Return license-expression's parser of SPDX expressions, which is slow to create."""
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


@lru_cache(maxsize=1)
def _by_key() -> Mapping[str, str]:
    """Return ScanCode's category of every licence and exception of SPDX, by SPDX id."""
    from license_expression import get_license_index

    return {
        key: entry["category"]
        for entry in get_license_index()
        for key in (entry.get("spdx_license_key"), *entry.get("other_spdx_license_keys", ()))
        if key and not key.startswith("LicenseRef-")
    }
