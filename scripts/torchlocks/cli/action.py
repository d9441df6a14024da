"""The GitHub Action: inputs to a plan, and the plan to an environment that later steps of the job have on PATH.

`action.yml` calls this twice: `plan` returns what the cache step restores, and `install` does the work. Outputs are
written to the files that the runner names (GITHUB_OUTPUT, GITHUB_ENV, GITHUB_PATH, GITHUB_STEP_SUMMARY).
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from torchlocks.core.errors import ActionError, MissingFileError, VerificationError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.workflow.environment import ChannelChoice


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of the action. `lock` replaces `env`; with `allowed_signers` it must be signed."""

    env: str = ""
    cuda: str = ""
    lock: str = ""
    channel: ChannelChoice = "auto"
    verify: bool = True
    allowed_signers: str = ""
    signer: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to install: `name` into `prefix`. `key` (with the lock's hash) and `paths` are for the cache step."""

    name: str
    platform: str
    prefix: Path
    key: str
    paths: tuple[Path, ...]


def read_inputs(environ: Mapping[str, str]) -> Inputs:
    """Return the inputs from the `INPUT_…` variables of action.yml. Raises ActionError if they are not valid."""
    values = {name: environ.get(f"INPUT_{name.upper()}", "").strip() for name in Inputs.__dataclass_fields__}
    channel = cast("ChannelChoice", values["channel"] or "auto")
    if channel not in get_args(ChannelChoice):
        raise ActionError(
            f"channel: {channel!r} is not a channel.", fix="name auto, conda-forge or local, or leave it out"
        )
    verify = values["verify"].lower() or "true"
    if verify not in ("true", "false"):
        raise ActionError(f"verify: {values['verify']!r} is neither true nor false.")
    named = [name for name in ("env", "cuda", "lock") if values[name]]
    if len(named) > 1:
        raise ActionError(
            f"{' and '.join(named)} exclude one another: each selects what is installed.", fix="give one of them"
        )
    if (values["allowed_signers"] or values["signer"]) and not values["lock"]:
        raise ActionError(
            "allowed-signers and signer are for a lock that is named with `lock`.",
            fix="name the lock, or leave them out: the action's own locks are as trustworthy as the action",
        )
    if values["signer"] and not values["allowed_signers"]:
        raise ActionError("signer requires allowed-signers, the file with the keys of each signer.")
    if channel == "local" and (verify == "false" or values["lock"]):
        raise ActionError(
            "The local channel has locks of its own, and what is built from it is always verified.",
            fix="leave out channel, or `lock` and `verify`",
        )
    return Inputs(
        env=values["env"] or ("" if named else "cpu"),
        cuda=values["cuda"],
        lock=values["lock"],
        channel=channel,
        verify=verify == "true",
        allowed_signers=values["allowed_signers"],
        signer=values["signer"],
    )


def make_plan(inputs: Inputs, layout: Layout, platform: str) -> Plan:
    """Return the plan for the inputs. Raises NoSuchRowError for unknown names, and what reading a lock raises."""
    from torchlocks.export.environment import lock_name
    from torchlocks.lockfile.open import read_bytes
    from torchlocks.matrix.load import load_matrix

    if inputs.lock:
        name, data = lock_name(inputs.lock), read_bytes(inputs.lock)
    else:
        matrix = load_matrix(layout.matrix)
        name = inputs.env or matrix.gpu_environment(inputs.cuda, platform)
        matrix.target(name, platform)
        data = read_bytes(str(_lock_of(layout, name)))
    if inputs.channel == "local":
        data = sys.version.encode() + b"".join(path.read_bytes() for path in _files(layout.recipes / "local"))
    digest = hashlib.sha256(data).hexdigest()
    return Plan(
        name=name,
        platform=platform,
        prefix=layout.prefix(name),
        key=f"torchlocks-{platform}-{name}-{inputs.channel}-{digest}",
        paths=(layout.made / "cache", layout.channel, layout.build / "wheels"),
    )


def install(inputs: Inputs, plan: Plan, layout: Layout, progress: Progress) -> str:
    """Install the planned environment; returns one line about the result.

    Raises VerificationError when a check of the suite fails, and what installing and verifying raise.
    """
    from torchlocks.install.installer import install_environment
    from torchlocks.install.provenance import Origin
    from torchlocks.lockfile.open import open_lock
    from torchlocks.workflow.environment import Request, make_environment

    if not inputs.lock and inputs.verify:
        request = Request(env=plan.name, platform=plan.platform, channel=inputs.channel)
        outcome = make_environment(layout, request, progress)
        for note in outcome.notes:
            progress.warn(note)
        if outcome.verdict is None:
            return f"{plan.name} is up to date"
        if not outcome.verdict.ok:
            raise VerificationError(
                f"{plan.name} failed its verification: {outcome.verdict.failure_line()}.",
                where=str(layout.reports / f"{plan.name}.json"),
            )
        return outcome.verdict.headline
    signed = ""
    if inputs.allowed_signers:
        from torchlocks.export.signatures import open_signed_lock

        lock, who = open_signed_lock(inputs.lock, Path(inputs.allowed_signers), signer=inputs.signer or None)
        signed = f", signed by {who.identity}"
    else:
        lock = open_lock(inputs.lock or str(_lock_of(layout, plan.name)))
    done = install_environment(
        lock, plan.platform, plan.prefix, provenance=Origin(name=plan.name, channel="lock"), progress=progress
    )
    return f"{done.packages} packages as {lock.path.name} has them (sha256 {lock.sha256}){signed}, not verified"


def activate_for_later_steps(prefix: Path, environ: Mapping[str, str]) -> None:
    """Activate the environment for the later steps of the job: its folders on PATH, and the variables it sets."""
    from torchlocks.install.activate import activation_environment

    after = activation_environment(prefix, environ)
    path = next((name for name in after if name.upper() == "PATH"), "PATH")
    there = environ.get(path, "").split(os.pathsep)
    # The runner prepends each line to PATH, so the last line comes first.
    folders = [folder for folder in after[path].split(os.pathsep) if folder and folder not in there]
    _append(environ, "GITHUB_PATH", "".join(f"{folder}\n" for folder in reversed(folders)))
    for name, value in after.items():
        if name != path and environ.get(name) != value:
            _append(environ, "GITHUB_ENV", _assignment(name, value))


def write_outputs(environ: Mapping[str, str], **values: str) -> None:
    """Write outputs of the step, for `${{ steps.ID.outputs.NAME }}`; underscores in names become dashes."""
    text = "".join(_assignment(name.replace("_", "-"), value) for name, value in values.items())
    _append(environ, "GITHUB_OUTPUT", text)


def write_summary(environ: Mapping[str, str], text: str) -> None:
    """Write text for the job's page, if there is one."""
    if environ.get("GITHUB_STEP_SUMMARY"):
        _append(environ, "GITHUB_STEP_SUMMARY", text)


def _assignment(name: str, value: str) -> str:
    """Return one variable in the runner's multi-line format, with a delimiter that does not occur in the value."""
    delimiter = f"end-{hashlib.sha256(value.encode()).hexdigest()}"
    return f"{name}<<{delimiter}\n{value}\n{delimiter}\n"


def _append(environ: Mapping[str, str], variable: str, text: str) -> None:
    path = environ.get(variable)
    if not path:
        raise ActionError(
            f"{variable} is not set: this is not a step of a GitHub workflow.",
            fix="use the action in a workflow; elsewhere, `torchlocks env` and `torchlocks install` do the same",
        )
    try:
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise ActionError(
            f"The file that {variable} names cannot be written: {error.strerror}.",
            where=path,
            fix="leave this variable as the runner sets it",
        ) from None


def _lock_of(layout: Layout, env: str) -> Path:
    from torchlocks.lockfile.formats import CONDA_LOCK

    path = layout.locks / env / CONDA_LOCK
    if not path.is_file():
        raise MissingFileError(f"{env} is not locked.", where=str(path), fix=f"lock it: make lock ENV={env}")
    return path


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
