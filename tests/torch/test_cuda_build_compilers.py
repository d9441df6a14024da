"""Compilers that CUDA programs run while they run: they work without a GPU, for every GPU that torch is built for."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest

from torchsuite import compilers, cuda_library, releases, skips
from torchsuite.imports import Imports, ending
from torchsuite.prefix import Prefix, is_cuda_file
from torchsuite.tiers import Measure, check


@pytest.fixture
def architectures(imports: Imports) -> list[str]:
    """The architectures of the build, without what is special to one of them: 75, 90, 120."""
    seen = imports.get("torch").seen
    if not seen:
        pytest.skip("torch cannot be imported")
    if seen["torch_cuda"] is None:
        pytest.skip("torch is a build for the CPU")
    return sorted(set(re.findall(r"\bsm_(\d+)", seen["cuda_build"]["architectures"])), key=int)


def _compile(which: str, arguments: list[str], work: Path) -> dict[str, int | str]:
    command = [sys.executable, "-I", os.fspath(compilers.__file__), which, *arguments]
    variables = {**os.environ, "TRITON_CACHE_DIR": os.fspath(work / "triton")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=110, check=False)
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    assert done.returncode == 0, f"{ending(done.returncode)}: {last}\n{done.stderr}"
    results: dict[str, int | str] = json.loads(done.stdout.splitlines()[-1])
    return results


@check("NVRTC looks for a library of its own only when it compiles; a path that is lost shows then", seconds=120)
def test_nvrtc(architectures: list[str], prefix: Prefix, tmp_path: Path, measure: Measure) -> None:
    files = (path for path in prefix.files if is_cuda_file(path) and cuda_library.is_asked(path))
    library = next((path for path in files if re.search(r"/(libnvrtc\.so\.\d+|nvrtc64_\d+_\d+\.dll)$", path)), None)
    if library is None:
        skips.skip(skips.Reason.ABSENT, "the environment has no NVRTC of its own")
    results = _compile("nvrtc", [*architectures, os.fspath(prefix.root / library)], tmp_path)
    measure("bytes", [f"{each}: {size}" for each, size in results.items()])
    failed = [f"sm_{each}: {result}" for each, result in results.items() if not (isinstance(result, int) and result)]
    assert not failed, "; ".join(failed)


@check("Triton brings an assembler of NVIDIA's, or finds one in the environment: torch.compile ends there", seconds=120)
def test_triton(architectures: list[str], tmp_path: Path, measure: Measure) -> None:
    if importlib.util.find_spec("triton") is None:
        skips.skip(skips.Reason.ABSENT, "the environment has no Triton")
    with suppress(metadata.PackageNotFoundError):
        if releases.older(version := metadata.version("triton"), (3, 0)):
            skips.skip(
                skips.Reason.RELEASE,
                f"Triton {version} takes no target without a GPU (triton.backends came with Triton 3.0)",
            )
    # Triton compiles for Volta and newer.
    results = _compile("triton", [each for each in architectures if int(each) >= 70], tmp_path)
    measure("compiled", [each for each, result in results.items() if isinstance(result, int)])
    # An assembler may be older than the newest GPU that torch is built for; there torch.compile has to wait for it.
    unknown = {each for each, result in results.items() if re.search(r"not defined for option|recognized", str(result))}
    measure("unknown", sorted(unknown))
    failed = [f"sm_{each}: {r}" for each, r in results.items() if not isinstance(r, int) and each not in unknown]
    assert not failed, "; ".join(failed)
    assert len(unknown) < len(results), "Triton's assembler knows none of the architectures that torch is built for"
