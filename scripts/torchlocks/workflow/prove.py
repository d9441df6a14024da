"""Install committed locks, one after the other, by torchlocks or another client, and run the suite in each."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchlocks.core.errors import InstallError, MissingFileError, TorchlocksError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.core.text import last_lines
from torchlocks.evidence.clients import Client
from torchlocks.export.clients import find_client
from torchlocks.lockfile.formats import CONDA_LOCK
from torchlocks.lockfile.models import Lock
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target
from torchlocks.verify.verdict import Verdict

_TIMEOUT_S = 3600
"""Time limit for a client to install one environment, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Proven:
    """The result for one environment: a verdict, or the error of its installation."""

    env: str
    verdict: Verdict | None
    error: TorchlocksError | None

    @property
    def ok(self) -> bool:
        """Whether the suite passed."""
        return self.verdict is not None and self.verdict.ok

    @property
    def line(self) -> str:
        """The result in one line."""
        if self.verdict is not None:
            return f"{self.env}: {self.verdict.headline}"
        return f"{self.env}: not installed: {self.error.what if self.error else 'no reason'}"


def prove(
    layout: Layout,
    matrix: Matrix,
    envs: Sequence[str],
    platform: str,
    client: Client,
    progress: Progress,
    *,
    keep: bool = False,
) -> list[Proven]:
    """Prove environments on this machine; reports go to `reports/proof/CLIENT/`.

    Each is installed into a prefix of its own from the committed lock and removed afterwards (`keep`: left in
    build/proof), since runners have disk space for one. A failure is part of the result and does not stop the others.
    Raises NoSuchRowError for a name that is not in the matrix, MissingFileError for a client that is not installed.
    """
    targets = [matrix.target(env, platform) for env in envs]
    if client != "torchlocks" and shutil.which(client) is None:
        raise MissingFileError(
            f"{client} is not installed.", where="PATH", fix=f"install {client}, or name another client"
        )
    found = []
    for target in targets:
        prefix = layout.build / "proof" / client / target.env
        try:
            found.append(_prove_one(layout, target, prefix, client, progress))
        except TorchlocksError as error:
            found.append(Proven(env=target.env, verdict=None, error=error))
        finally:
            if not keep:
                shutil.rmtree(prefix, ignore_errors=True)
    return found


def _prove_one(layout: Layout, target: Target, prefix: Path, client: Client, progress: Progress) -> Proven:
    from torchlocks.lockfile.open import open_lock
    from torchlocks.verify.suite import Required, SuiteOptions, verify_environment

    shutil.rmtree(prefix, ignore_errors=True)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    lock = open_lock(str(layout.locks / target.env / CONDA_LOCK))
    with progress.task(f"Installing {target.env} with {client}"):
        if client == "torchlocks":
            _install(lock, target, prefix, progress)
        else:
            _run_client(layout, target, prefix, client)
    options = SuiteOptions(suite=layout.suite, reports=layout.reports / "proof" / client, client=client)
    verdict = verify_environment(prefix, lock, target.platform, Required.of(target), options, progress)
    return Proven(env=target.env, verdict=verdict, error=None)


def _install(lock: Lock, target: Target, prefix: Path, progress: Progress) -> None:
    from torchlocks.install.installer import install_environment
    from torchlocks.install.provenance import Origin

    install_environment(
        lock, target.platform, prefix, provenance=Origin(name=target.env, channel="lock"), progress=progress
    )


def client_command(layout: Layout, target: Target, prefix: Path, client: Client) -> list[str]:
    """Return the documented command line of a client, for this prefix and without questions."""
    words = shlex.split(find_client(client).command(target.env, target.platform, layout.root))
    words = [str(prefix) if word == f"./{target.env}" else word for word in words]
    return [*words, "-y"] if client in ("conda", "mamba", "micromamba") else words


def _run_client(layout: Layout, target: Target, prefix: Path, client: Client) -> None:
    command = client_command(layout, target, prefix, client)
    # On Windows clients may be .bat files, which only their full path starts.
    command[0] = shutil.which(command[0]) or command[0]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=_TIMEOUT_S,
        )
        output, failed = done.stdout.decode(errors="replace"), done.returncode != 0
    except subprocess.TimeoutExpired:
        output, failed = f"it took more than {_TIMEOUT_S} s", True
    except OSError as error:
        output, failed = str(error), True
    if failed:
        raise InstallError(
            f"{client} could not install {target.env}.",
            where=shlex.join(command),
            fix="see its output below",
            details=last_lines(output),
        )
