"""Every way torchlocks can fail: one class a kind, each with its own exit code.

A message always answers three questions: what is wrong, where, and what to do about it.
`cli.py` prints them in that order and exits with the code; a traceback is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class TorchlocksError(Exception):
    """The base of all expected failures.

    `what` is one sentence. `where` names the file, line and key, or the URL. `fix` says what the
    reader can do next, one choice a line. `details` is longer text (a solver's explanation, the end of a log), shown
    below the three.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, where: str | None = None, fix: str | None = None, details: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix
        self.details = details

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


class MatrixError(TorchlocksError):
    """`matrix.yml` is not valid."""

    exit_code = 10


class NoSuchRowError(TorchlocksError):
    """The environment, platform or CUDA version asked for is not in the matrix."""

    exit_code = 11


class TemplateError(TorchlocksError):
    """An environment template cannot be rendered."""

    exit_code = 12


class LockfileError(TorchlocksError):
    """A lockfile cannot be read, or is not what it claims to be."""

    exit_code = 13


class MissingFileError(TorchlocksError):
    """A file or environment that the command needs is not there."""

    exit_code = 14


class NotACheckoutError(TorchlocksError):
    """A command that writes committed files was called where there is no checkout."""

    exit_code = 22


class HostRecordError(TorchlocksError):
    """What is said of a machine, in a host record or a CONDA_OVERRIDE_… variable, is not valid."""

    exit_code = 16


class UnfitHostError(TorchlocksError):
    """The environment cannot run on this machine: its driver, its GPUs or its C library."""

    exit_code = 17


class EnvironmentFileError(TorchlocksError):
    """An `environment.yml` that should be locked on a base cannot be used."""

    exit_code = 18


class BaseLockError(TorchlocksError):
    """A base cannot be found, or is no lock that another can be built on."""

    exit_code = 19


class SolveError(TorchlocksError):
    """The solver found no solution, or could not run."""

    exit_code = 20


class ContradictionError(SolveError):
    """What is asked for cannot go with the packages of its base."""

    exit_code = 21


class ChannelUnreachableError(TorchlocksError):
    """A channel cannot be reached over the network."""

    exit_code = 30


class FetchError(TorchlocksError):
    """A package or wheel cannot be fetched."""

    exit_code = 31


class IntegrityError(TorchlocksError):
    """Bytes are not what the lock says: a hash, a size, or a package's own index."""

    exit_code = 32


class DiskFullError(TorchlocksError):
    """The disk has no room left."""

    exit_code = 33


class SignatureError(TorchlocksError):
    """A lock's signature is missing, not valid, or not by somebody who may sign."""

    exit_code = 34


class RecipeError(TorchlocksError):
    """A recipe of the local channel cannot be rendered or built."""

    exit_code = 40


class WheelError(TorchlocksError):
    """A wheel that the local channel is built from cannot be had, or is not the right one."""

    exit_code = 41


class ExportError(TorchlocksError):
    """A lock cannot be written in the form that was asked for."""

    exit_code = 42


class InstallError(TorchlocksError):
    """An environment could not be put in place; the one that was there is untouched."""

    exit_code = 50


class BusyError(TorchlocksError):
    """Another process is at work on the same environment."""

    exit_code = 51


class FleetError(TorchlocksError):
    """The workers of a scheduler cannot be reached, are not fit for the work, or were lost."""

    exit_code = 52


class VerificationError(TorchlocksError):
    """The torch suite found something wrong with an environment."""

    exit_code = 60


class CheckError(TorchlocksError):
    """`check` found something wrong with a lock."""

    exit_code = 61


class LicenceError(TorchlocksError):
    """A lock holds packages under a kind of licence that `licences --fail-on` names."""

    exit_code = 62


class AttestationError(TorchlocksError):
    """A package's Sigstore attestation is missing where one is required, or does not verify."""

    exit_code = 63


class BenchError(TorchlocksError):
    """Something that was to be measured did not work."""

    exit_code = 64


class ActionError(TorchlocksError):
    """The GitHub Action was given inputs that make no sense, or runs outside a workflow."""

    exit_code = 65


class InterruptedByUserError(TorchlocksError):
    """Ctrl-C, or a termination signal."""

    exit_code = 130
