"""All expected failures: one class for each kind, with its own exit code.

A message reports what is wrong, where, and what to do about it. `cli/main.py` prints them in that order and exits with
the code; a traceback is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torchlocks.core.printing import printable


class TorchlocksError(Exception):
    """The base class of all expected failures.

    `what` is one sentence. `where` names the file, line and key, or the URL. `fix` has the possible next steps, one per
    line. `details` is longer text (a solver's explanation, the end of a log), printed below the three.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, where: str | None = None, fix: str | None = None, details: str | None = None
    ) -> None:
        # Names, URLs and texts of others' files are in here: none may act on a terminal or show a secret.
        self.what = printable(what)
        self.where = None if where is None else printable(where)
        self.fix = None if fix is None else printable(fix, lines=True)
        self.details = None if details is None else printable(details, lines=True)
        super().__init__(self.what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append("  fix:   " + self.fix.replace("\n", "\n         "))
        if self.details:
            lines.append(self.details)
        return "\n".join(lines)

    def as_data(self) -> dict[str, str | None]:
        """Return the error as values for JSON, for another process; `from_data` is the inverse.

        `exception_name` and `error` are also the keys that conda uses.
        """
        parts = {"where": self.where, "fix": self.fix, "details": self.details}
        return {"exception_name": type(self).__name__, "error": self.what, **parts}

    @staticmethod
    def from_data(data: Mapping[str, object], otherwise: type[TorchlocksError]) -> TorchlocksError:
        """Return the error that `as_data` described; of class `otherwise` where it names none of this module.

        Values that are not text count as absent: the data may come from a program of somebody else.
        """
        text = {key: value for key, value in data.items() if isinstance(value, str) and value}
        kind = globals().get(text.get("exception_name", ""))
        known = kind if isinstance(kind, type) and issubclass(kind, TorchlocksError) else otherwise
        what = text.get("error") or text.get("message") or "The program failed without a reason."
        return known(what, where=text.get("where"), fix=text.get("fix"), details=text.get("details"))


def grouped(errors: Sequence[TorchlocksError]) -> list[TorchlocksError]:
    """Return the errors with those that differ in their place alone as one, which counts and names the other places."""
    groups: dict[tuple[object, ...], list[TorchlocksError]] = {}
    for error in errors:
        groups.setdefault((type(error), error.what, error.fix, error.details), []).append(error)
    return [group[0] if len(group) == 1 else _one_of(group) for group in groups.values()]


def _one_of(group: Sequence[TorchlocksError]) -> TorchlocksError:
    first = group[0]
    # `cpu on linux-64: error sending request …`: the place, and what happened there.
    places = [(error.where or "").partition(": ")[0] for error in group[1:]]
    shown = ", ".join(places[:4]) + (" …" if len(places) > 4 else "")
    where = f"{first.where}; the same for {len(places)} more: {shown}"
    return type(first)(first.what, where=where, fix=first.fix, details=first.details)


class MatrixError(TorchlocksError):
    """`matrix.yml` is not valid."""

    exit_code = 10


class NoSuchRowError(TorchlocksError):
    """The environment, platform or requested CUDA version is not in the matrix."""

    exit_code = 11


class TemplateError(TorchlocksError):
    """An environment template cannot be rendered."""

    exit_code = 12


class LockfileError(TorchlocksError):
    """A lockfile cannot be read, or its content is not valid."""

    exit_code = 13


class MissingFileError(TorchlocksError):
    """A file or environment that the command requires does not exist."""

    exit_code = 14


class NotACheckoutError(TorchlocksError):
    """A command that writes committed files was called outside a checkout."""

    exit_code = 22


class HostRecordError(TorchlocksError):
    """A host record or a CONDA_OVERRIDE_… variable is not valid."""

    exit_code = 16


class UnfitHostError(TorchlocksError):
    """The environment is not compatible with this machine: its driver, its GPUs or its C library."""

    exit_code = 17


class EnvironmentFileError(TorchlocksError):
    """An `environment.yml` to lock on a base is not valid."""

    exit_code = 18


class BaseLockError(TorchlocksError):
    """A base cannot be found, or is not a lock that can be extended."""

    exit_code = 19


class SolveError(TorchlocksError):
    """The solver found no solution, or could not run."""

    exit_code = 20


class ContradictionError(SolveError):
    """The requested packages conflict with the packages of the base."""

    exit_code = 21


class ChannelUnreachableError(TorchlocksError):
    """A channel cannot be reached over the network."""

    exit_code = 30


class FetchError(TorchlocksError):
    """A package or wheel cannot be downloaded."""

    exit_code = 31


class IntegrityError(TorchlocksError):
    """A file differs from the lock: in its hash, its size, or a package's own index."""

    exit_code = 32


class DiskFullError(TorchlocksError):
    """The disk is full."""

    exit_code = 33


class SignatureError(TorchlocksError):
    """A lock's signature is missing, not valid, or not by an allowed signer."""

    exit_code = 34


class RecipeError(TorchlocksError):
    """A recipe of the local channel cannot be rendered or built."""

    exit_code = 40


class WheelError(TorchlocksError):
    """A wheel that the local channel is built from is not available, or is not the expected one."""

    exit_code = 41


class ExportError(TorchlocksError):
    """A lock cannot be written in the requested format."""

    exit_code = 42


class ImageError(TorchlocksError):
    """A container image cannot be written, or its base cannot be used."""

    exit_code = 43


class InstallError(TorchlocksError):
    """An environment could not be installed; the existing one is unchanged."""

    exit_code = 50


class BusyError(TorchlocksError):
    """Another process is changing the same environment."""

    exit_code = 51


class FleetError(TorchlocksError):
    """The workers of a scheduler cannot be reached, have other versions, or were lost."""

    exit_code = 52


class VerificationError(TorchlocksError):
    """Checks of the torch suite failed in an environment."""

    exit_code = 60


class CheckError(TorchlocksError):
    """`check` found errors in a lock."""

    exit_code = 61


class LicenceError(TorchlocksError):
    """A lock contains packages with a kind of licence that `licences --fail-on` names."""

    exit_code = 62


class AttestationError(TorchlocksError):
    """A package's Sigstore attestation is missing where one is required, or does not verify."""

    exit_code = 63


class BenchError(TorchlocksError):
    """A benchmark failed."""

    exit_code = 64


class ActionError(TorchlocksError):
    """The inputs of the GitHub Action are not valid, or it runs outside a workflow."""

    exit_code = 65


class EvidenceError(TorchlocksError):
    """A report proves nothing of a committed lock, or an evidence record is not valid."""

    exit_code = 66


class InterruptedByUserError(TorchlocksError):
    """Ctrl-C, or a termination signal."""

    exit_code = 130
