"""Sign evidence records, and verify their signatures; see `torchlocks.export.signatures`."""

from __future__ import annotations

from pathlib import Path

from torchlocks.core.errors import SignatureError
from torchlocks.core.reading import TEXT_BYTES, read_bytes
from torchlocks.evidence.store import read_record
from torchlocks.export.signatures import Signer, sign_file, signature_of, verify

NAMESPACE = "torchlocks-evidence"
"""A signature of a lock is not one of evidence, and the other way round."""


def is_record(path: Path) -> bool:
    """Return whether a path is one of an evidence record, by its name."""
    return path.suffix == ".json"


def sign_record(path: Path, key: Path) -> Path:
    """Sign a record with an SSH key, and return the signature's path.

    Raises EvidenceError if it is no valid record, and what `sign_file` raises.
    """
    read_record(path)
    return sign_file(path, read_bytes(path, TEXT_BYTES), key, namespace=NAMESPACE)


def verify_record(path: Path, allowed: Path, *, signer: str | None = None) -> Signer:
    """Verify the signature beside a record. Raises EvidenceError, and what `verify` raises."""
    read_record(path)
    try:
        signature = read_bytes(signature_of(path), TEXT_BYTES)
    except OSError:
        raise SignatureError(
            "The record is not signed: there is no signature beside it.",
            where=str(signature_of(path)),
            fix="sign it: torchlocks sign RECORD",
        ) from None
    return verify(read_bytes(path, TEXT_BYTES), signature, allowed, signer=signer, name=str(path), namespace=NAMESPACE)
