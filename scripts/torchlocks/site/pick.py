"""Pick the environment for a described machine (driver 535, an A100) from `index.json`.

The picker of the site (`templates/site.js`) does the same in the browser; a test compares the two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from packaging.version import Version

from torchlocks.core.errors import NoSuchRowError, UnfitHostError
from torchlocks.core.values import from_plain
from torchlocks.cuda.libraries import Limit
from torchlocks.host.compatibility import check_compatibility
from torchlocks.host.doctor import best, describe, newer_driver, refusal
from torchlocks.host.needs import Compatibility, CudaNeeds, Needs
from torchlocks.host.nvidia import Gpu
from torchlocks.host.record import Host
from torchlocks.matrix.cells import Drivers
from torchlocks.matrix.model import Matrix
from torchlocks.matrix.target import Target
from torchlocks.site.index import Index, IndexEnvironment, IndexPlatform

#: The assumed version of a system library that was not given: newer than any that a lock requires.
_NEWEST = "999.0"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The description of a machine. `driver` is a version or a branch such as `535`; None: no NVIDIA driver.

    `gpu` is a name of `gpu_names()` or a compute capability; None: not given. `wsl`: Linux inside Windows, whose driver
    is that of Windows. `glibc` and `osx` are versions; None: new enough.
    """

    platform: str
    driver: str | None = None
    gpu: str | None = None
    wsl: bool = False
    glibc: str | None = None
    osx: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pick:
    """The chosen environment and its compatibility. For the CPU's, `refused` has the reasons against CUDA ones.

    `more` names the driver that would allow newer CUDA.
    """

    environment: IndexEnvironment
    platform: IndexPlatform
    result: Compatibility
    refused: tuple[str, ...]
    more: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What decides whether an environment is picked. `row` is the environment that it is a variant of, or itself."""

    env: str
    row: str
    platform: str
    torch: str
    python: str
    torchvision: str | None
    torchaudio: str | None
    needs: Needs

    @property
    def default(self) -> bool:
        return self.env == self.row


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen candidate; `result`, `refused` and `more` are those of a `Pick`."""

    candidate: Candidate
    result: Compatibility
    refused: tuple[str, ...]
    more: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an environment must have: packages by name (torchvision, torchaudio), a Python, a PyTorch (both X.Y)."""

    packages: tuple[str, ...] = ()
    python: str | None = None
    torch: str | None = None

    def has(self, candidate: Candidate) -> bool:
        """Return whether the environment has all of it."""
        held = {"torchvision": candidate.torchvision, "torchaudio": candidate.torchaudio}
        return (
            all(held.get(name) for name in self.packages)
            and self.python in (None, _minor(candidate.python))
            and self.torch in (None, _minor(candidate.torch))
        )

    def candidates(self, matrix: Matrix, platform: str) -> tuple[Target, ...]:
        """Return the targets on `platform` that `pick` can choose, by the matrix alone.

        All targets if there is none on the platform, so that the error can name the platforms that there are.
        """
        if platform not in matrix.platforms:
            return matrix.targets()
        # Variants are chosen only for what the defaults lack.
        return tuple(
            target
            for target in (matrix.defaults() if self == Wanted() else matrix.targets())
            if target.platform == platform
            and self.python in (None, target.python)
            and self.torch in (None, target.pytorch)
        )

    def __str__(self) -> str:
        return " and ".join(
            [
                *self.packages,
                *([f"Python {self.python}"] if self.python else []),
                *([f"PyTorch {self.torch}"] if self.torch else []),
            ]
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def pick(index: Index, machine: Machine, cuda: str | None = None, wanted: Wanted | None = None) -> Pick:
    """Return the best environment of an index for a machine; arguments and errors are those of `choose`."""
    cells = {(env.name, platform.platform): (env, platform) for env, platform in index.cells()}
    choice = choose([_candidate(*cell) for cell in cells.values()], index.left_out, machine, cuda, wanted)
    return picked(*cells[choice.candidate.env, choice.candidate.platform], choice)


def picked(environment: IndexEnvironment, platform: IndexPlatform, choice: Choice) -> Pick:
    """Return a choice with its entry in the index."""
    return Pick(
        environment=environment, platform=platform, result=choice.result, refused=choice.refused, more=choice.more
    )


def _candidate(env: IndexEnvironment, entry: IndexPlatform) -> Candidate:
    return Candidate(
        env=env.name,
        row=env.variant_of or env.name,
        platform=entry.platform,
        torch=entry.torch,
        python=entry.python,
        torchvision=entry.torchvision,
        torchaudio=entry.torchaudio,
        needs=needs(env, entry),
    )


def choose(
    candidates: Sequence[Candidate],
    left_out: Mapping[str, str],
    machine: Machine,
    cuda: str | None = None,
    wanted: Wanted | None = None,
) -> Choice:
    """Choose the best environment for a machine: of the newest CUDA that runs with machine code, else the CPU's.

    `cuda` selects one CUDA version, `wanted` what must be in it; `left_out` has the reasons for CUDA versions without
    an environment. Of one row, the default is preferred, then the variant with the newest PyTorch. Raises
    NoSuchRowError if there is none for the platform or CUDA version, UnfitHostError if it does not run there.
    """
    host = host_of(machine)
    here = [each for each in candidates if each.default and each.platform == host.platform]
    if wanted is not None and wanted != Wanted():
        having = [each for each in candidates if each.platform == host.platform and wanted.has(each)]
        # The newest PyTorch first, and of these the newest Python; defaults before variants.
        having.sort(key=lambda each: (each.default, Version(each.torch), Version(each.python)))
        rows = {each.row: each for each in having}
        if not rows:
            raise NoSuchRowError(
                f"No environment for {host.platform} has {wanted}.",
                fix="ask for less, or for another platform; `torchlocks matrix --all` lists what there is",
            )
        here = list(rows.values())
    if not here:
        known = dict.fromkeys(each.platform for each in candidates)
        raise NoSuchRowError(
            f"There are no environments for {host.platform}.", fix=f"name one of: {', '.join(known) or '(none)'}"
        )
    checked = [check_compatibility(each.needs, host) for each in here]
    chosen = best(checked)
    if cuda is not None:
        named = next((result for result in checked if result.cuda == cuda), None)
        if named is None:
            versions = [result.cuda for result in checked if result.cuda]
            raise NoSuchRowError(
                f"There is no environment for CUDA {cuda} on {host.platform}"
                + (f": {left_out[cuda]}." if cuda in left_out else "."),
                fix=f"name one of: {', '.join(versions) or '(none)'}",
            )
        if error := refusal(named, host, chosen):
            raise error
        chosen = named
    if chosen is None:
        reasons = [f"{result.env}: {reason.text}" for result in checked for reason in result.blocking]
        raise UnfitHostError(
            "No environment runs on this machine.", where=describe(host), details="\n".join(f"  {r}" for r in reasons)
        )
    refused = [f"{result.env}: {reason.text}" for result in checked if result.cuda for reason in result.blocking]
    return Choice(
        candidate=here[checked.index(chosen)],
        result=chosen,
        refused=tuple(refused) if chosen.cuda is None else (),
        more=tuple(newer_driver(tuple(checked), chosen, host)),
    )


def host_of(machine: Machine) -> Host:
    """Return the machine as a `Host`. Raises UnfitHostError for a driver version or GPU that is not valid."""
    gpus: tuple[Gpu, ...] = ()
    if machine.gpu is not None and machine.driver is not None:
        gpus = (Gpu(index=0, name=machine.gpu, compute_capability=capability(machine.gpu)),)
    return Host(
        platform=machine.platform,
        kind="wsl" if machine.wsl else "native",
        glibc=_version(machine.glibc, "glibc") or _NEWEST,
        osx=_version(machine.osx, "macOS") or _NEWEST,
        driver=_version(machine.driver, "driver"),
        gpus=gpus,
    )


def _version(text: str | None, what: str) -> str | None:
    """Return a version with at least two parts: a driver branch such as 535 counts as its first release."""
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,4}", text.strip(), re.ASCII):
        raise UnfitHostError(
            f"{text[:40]!r} is not a version of {what}.", fix="give numbers and dots, such as 535.104.05"
        )
    return text.strip() if "." in text else f"{text.strip()}.0"


def capability(gpu: str) -> str:
    """Return the compute capability of a GPU (`A100`, `NVIDIA A100-SXM4-80GB`, `RTX 4090`, `8.0` or `sm_80`).

    Raises UnfitHostError, with similar names, if it is not known.
    """
    if re.fullmatch(r"\d{1,3}\.\d", gpu, re.ASCII):
        return gpu
    if match := re.fullmatch(r"sm_?(\d{1,3})(\d)", gpu.lower(), re.ASCII):
        return f"{match[1]}.{match[2]}"
    wanted = _key(gpu)
    known = {_key(name): value for name, value in gpu_names().items()}
    # The cards of one GeForce generation share a capability; professional ones (RTX 4000) have names of their own.
    if series := re.fullmatch(r"(gtx|rtx)(\d{1,2})[35-9]0(ti|super|tisuper|d|laptopgpu)*", wanted):
        wanted = f"{series[1]}{series[2]}{'00' if series[2] == '9' else ''}series"
    if wanted in known:
        return known[wanted]
    from difflib import get_close_matches

    near = get_close_matches(gpu.upper(), list(gpu_names()), n=3, cutoff=0.4)
    raise UnfitHostError(
        f"No GPU called {gpu[:80]!r} is known here.",
        fix=(f"did you mean {', '.join(near)}?\nor " if near else "")
        + "give its compute capability: nvidia-smi --query-gpu=compute_cap --format=csv",
    )


def _key(name: str) -> str:
    """Return a name without vendor, memory and form factor: `a100` for `NVIDIA A100-SXM4-80GB`."""
    plain = re.sub(r"\b(nvidia|geforce|tesla)\b|\(.*\)", "", name.lower())
    plain = re.sub(r"[\s-]+(pcie?|sxm\d*|hgx|nvl|\d+\s?gb)\b.*$", "", plain)
    return re.sub(r"[^a-z0-9]", "", plain)


@cache
def gpu_names() -> Mapping[str, str]:
    """Return the compute capabilities of GPUs by name; `gpus.json` has the source."""
    text = (resources.files("torchlocks.cuda") / "gpus.json").read_text(encoding="utf-8")
    gpus: dict[str, str] = json.loads(text)["gpus"]
    return gpus


def needs(env: IndexEnvironment, platform: IndexPlatform) -> Needs:
    """Return the requirements of an entry of the index."""
    cuda = platform.cuda
    return Needs(
        env=env.name,
        platform=platform.platform,
        glibc=platform.glibc,
        osx=platform.osx,
        cuda=CudaNeeds(
            version=cuda.version,
            toolkit=cuda.toolkit,
            drivers=from_plain(Drivers, cuda.drivers.model_dump()),
            toolkit_drivers=from_plain(Drivers, cuda.toolkit_drivers.model_dump()) if cuda.toolkit_drivers else None,
            architectures=cuda.architectures,
            ptx=cuda.ptx,
            libraries=tuple(Limit(**each.model_dump()) for each in cuda.libraries),
        )
        if cuda
        else None,
    )
