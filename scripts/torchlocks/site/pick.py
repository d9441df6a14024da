"""A machine in a few words (driver 535, an A100) to the environment for it, by what `index.json` says.

The picker of the site (`templates/site.js`) does the same in the browser; a test holds the two together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from torchlocks.core.errors import NoSuchRowError, UnfitHostError
from torchlocks.host.compatibility import CudaNeeds, Fit, Needs, fits
from torchlocks.host.doctor import best, describe, refusal
from torchlocks.host.nvidia import Gpu
from torchlocks.host.record import Host
from torchlocks.matrix.model import Drivers
from torchlocks.site.index import Index, IndexEnvironment, IndexPlatform

#: Stands for a system library whose version was not told: newer than any that a lock asks for.
_NOT_TOLD = "999.0"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was said of the machine. `driver` is a version or a branch such as `535`; None: no NVIDIA driver.

    `gpu` is a name of `gpu_names()` or a compute capability; None: not told. `wsl`: Linux inside Windows, whose driver
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
    """The environment that was chosen, and why it suits; `refused` says why CUDA ones do not, where it is the CPU's."""

    environment: IndexEnvironment
    platform: IndexPlatform
    fit: Fit
    refused: tuple[str, ...]


def pick(index: Index, machine: Machine, cuda: str | None = None) -> Pick:
    """The best environment for a machine: of the newest CUDA that runs with machine code, else the CPU's.

    `cuda` asks for one CUDA version. Raises NoSuchRowError when there is none for the platform or CUDA version,
    UnfitHostError when it does not run there.
    """
    host = host_of(machine)
    here = [(env, platform) for env, platform in index.cells() if platform.platform == host.platform]
    if not here:
        known = dict.fromkeys(platform.platform for _, platform in index.cells())
        raise NoSuchRowError(
            f"There are no environments for {host.platform}.", fix=f"name one of: {', '.join(known) or '(none)'}"
        )
    judged = [fits(needs(env, platform), host) for env, platform in here]
    chosen = best(judged)
    if cuda is not None:
        named = next((fit for fit in judged if fit.cuda == cuda), None)
        if named is None:
            versions = [fit.cuda for fit in judged if fit.cuda]
            raise NoSuchRowError(
                f"There is no environment for CUDA {cuda} on {host.platform}"
                + (f": {index.left_out[cuda]}." if cuda in index.left_out else "."),
                fix=f"name one of: {', '.join(versions) or '(none)'}",
            )
        if error := refusal(named, host, chosen):
            raise error
        chosen = named
    if chosen is None:
        reasons = [f"{fit.env}: {reason.text}" for fit in judged for reason in fit.blocking]
        raise UnfitHostError(
            "No environment runs on this machine.", where=describe(host), details="\n".join(f"  {r}" for r in reasons)
        )
    env, platform = here[judged.index(chosen)]
    refused = [f"{fit.env}: {reason.text}" for fit in judged if fit.cuda for reason in fit.blocking]
    return Pick(environment=env, platform=platform, fit=chosen, refused=tuple(refused) if chosen.cuda is None else ())


def host_of(machine: Machine) -> Host:
    """The machine as `fits` takes it. Raises UnfitHostError for a driver or GPU that cannot be understood."""
    gpus: tuple[Gpu, ...] = ()
    if machine.gpu is not None and machine.driver is not None:
        gpus = (Gpu(index=0, name=machine.gpu, compute_capability=capability(machine.gpu)),)
    return Host(
        platform=machine.platform,
        kind="wsl" if machine.wsl else "native",
        glibc=_version(machine.glibc, "glibc") or _NOT_TOLD,
        osx=_version(machine.osx, "macOS") or _NOT_TOLD,
        driver=_version(machine.driver, "driver"),
        gpus=gpus,
    )


def _version(text: str | None, what: str) -> str | None:
    """A version with at least two parts: a driver branch such as 535 counts as its first release."""
    if text is None:
        return None
    if not re.fullmatch(r"\d+(\.\d+)*", text.strip()):
        raise UnfitHostError(f"{text!r} is not a version of {what}.", fix="give numbers and dots, such as 535.104.05")
    return text.strip() if "." in text else f"{text.strip()}.0"


def capability(gpu: str) -> str:
    """The compute capability of a GPU, by name (`A100`, `NVIDIA A100-SXM4-80GB`, `RTX 4090`) or as `8.0` or `sm_80`.

    Raises UnfitHostError, with names that are near, for one that is not known.
    """
    if re.fullmatch(r"\d+\.\d", gpu):
        return gpu
    if match := re.fullmatch(r"sm_?(\d+)(\d)", gpu.lower()):
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
        f"No GPU called {gpu!r} is known here.",
        fix=(f"did you mean {', '.join(near)}?\nor " if near else "")
        + "give its compute capability: nvidia-smi --query-gpu=compute_cap --format=csv",
    )


def _key(name: str) -> str:
    """A name less its maker, its memory and how it is mounted: `a100` of `NVIDIA A100-SXM4-80GB`."""
    plain = re.sub(r"\b(nvidia|geforce|tesla)\b|\(.*\)", "", name.lower())
    plain = re.sub(r"[\s-]+(pcie?|sxm\d*|hgx|nvl|\d+\s?gb)\b.*$", "", plain)
    return re.sub(r"[^a-z0-9]", "", plain)


@cache
def gpu_names() -> Mapping[str, str]:
    """GPUs that people name, and their compute capabilities; `gpus.json` says where that is from."""
    text = (resources.files("torchlocks.cuda") / "gpus.json").read_text(encoding="utf-8")
    gpus: dict[str, str] = json.loads(text)["gpus"]
    return gpus


def needs(env: IndexEnvironment, platform: IndexPlatform) -> Needs:
    """What an entry of the index asks of a machine, as `fits` takes it."""
    cuda = platform.cuda
    return Needs(
        env=env.name,
        platform=platform.platform,
        glibc=platform.glibc,
        osx=platform.osx,
        cuda=CudaNeeds(
            version=cuda.version,
            toolkit=cuda.toolkit,
            drivers=Drivers.model_validate(cuda.drivers.model_dump()),
            toolkit_drivers=Drivers.model_validate(cuda.toolkit_drivers.model_dump()) if cuda.toolkit_drivers else None,
            architectures=cuda.architectures,
            ptx=cuda.ptx,
        )
        if cuda
        else None,
    )
