"""Verify the Sigstore attestations of a lock's packages with py-rattler, if channels have them.

An attestation records who published a package, signed with the identity of a build service (CEP 27); channels with
attestations have their hashes in the records (CEP 50, `attestations_sha256`). Locks do not contain that hash, so the
records are read from the channel. An attestation is about a package's SHA-256, so the records must agree with the lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks.core.errors import AttestationError, MissingFileError
from torchlocks.core.http import make_client
from torchlocks.core.progress import Progress
from torchlocks.core.urls import mask
from torchlocks.export.environment import LockedTarget
from torchlocks.solve.repodata import RecordSource, records_by_url

if TYPE_CHECKING:
    from rattler import RepoDataRecord
    from rattler.networking import Client
    from rattler.sigstore import TrustedRoot, VerificationPolicy

EMBEDDED = "embedded"
"""The trusted root in py-rattler: it needs no network, and is as old as py-rattler."""


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """The required signer: a certificate's `identity` (a workflow's URL) and its `issuer`. None: any."""

    identity: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Attested:
    """The result for one package. Without problem and signer, its channel has no attestation."""

    package: str
    signer: str | None = None
    problem: str | None = None


def verify_attestations(
    locked: LockedTarget, source: RecordSource, publisher: Publisher, trusted_root: str | None, progress: Progress
) -> tuple[Attested, ...]:
    """Verify the attestations of all packages of a lock, in the order of their names.

    `trusted_root` is the path of a `trusted_root.json`, or `embedded`; None fetches the newest from Sigstore.
    Raises ChannelUnreachableError when a channel's records cannot be read, LockfileError when lock and channel disagree
    on a package, MissingFileError or AttestationError for a trusted root that is none.
    """
    from torchlocks.lockfile.formats import select_records

    policy, root = _policy(publisher), _trusted_root(trusted_root)
    packages = {package.url: package.name for package in locked.packages}
    channels = locked.lock.channels or tuple({package.channel for package in locked.packages})
    pool = records_by_url(source, channels, locked.platform, packages).values()
    (records,) = select_records(replace(locked.lock, packages={locked.platform: locked.packages}), pool).values()
    return asyncio.run(_verify_all(records, policy, root, progress))


async def _verify_all(
    records: Sequence[RepoDataRecord], policy: VerificationPolicy, root: TrustedRoot | None, progress: Progress
) -> tuple[Attested, ...]:
    client, found = make_client(), []
    advertised = sum(record.attestations_sha256 is not None for record in records)
    with progress.task("Verifying attestations", total=advertised) as task:
        for record in records:
            if record.attestations_sha256 is None:
                found.append(Attested(package=record.file_name))
                continue
            found.append(await _verify(record, policy, root, client))
            task.advance(1, note=record.file_name)
    return tuple(found)


async def _verify(
    record: RepoDataRecord, policy: VerificationPolicy, root: TrustedRoot | None, client: Client
) -> Attested:
    from rattler.exceptions import AttestationError as Refused
    from rattler.sigstore import verify_attestation

    try:
        outcome = await verify_attestation(record, policy, client, root)
    except Refused as error:
        return Attested(package=record.file_name, problem=mask(str(error)))
    if outcome.attestation is None:
        return Attested(package=record.file_name, problem="; ".join(map(mask, outcome.warnings)) or "not verified")
    return Attested(package=record.file_name, signer=outcome.attestation.identity or "an unnamed identity")


def _policy(publisher: Publisher) -> VerificationPolicy:
    from rattler.sigstore import Issuer, VerificationPolicy
    from rattler.sigstore import Publisher as Wanted

    try:
        issuer = Issuer(publisher.issuer) if publisher.issuer else None
    except ValueError as error:
        raise AttestationError(f"This is not an issuer of certificates: {error}.", where=publisher.issuer) from None
    return VerificationPolicy.require(Wanted(identity=publisher.identity, issuer=issuer))


def _trusted_root(named: str | None) -> TrustedRoot | None:
    from rattler.sigstore import TrustedRoot

    if named is None:
        return None
    if named == EMBEDDED:
        return TrustedRoot.embedded()
    if not Path(named).is_file():
        raise MissingFileError("There is no such trusted root.", where=named, fix=f"name a file, or {EMBEDDED!r}")
    try:
        return TrustedRoot.from_path(named)
    except ValueError as error:
        raise AttestationError(
            f"This is not a trusted root of Sigstore: {error}", where=named, fix="name a trusted_root.json"
        ) from None
