"""The suite stands alone, so it repeats one rule of the tool: which code runs on which GPU. The two must agree."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from torchlocks.core.layout import Layout
from torchlocks.host.gpu_rules import code_for
from torchlocks.matrix.load import load_matrix
from torchsuite.capability import how_it_runs

LAYOUT = Layout(Path(__file__).parents[3])
GPUS = json.loads((LAYOUT.root / "scripts/torchlocks/cuda/gpus.json").read_text(encoding="utf-8"))["gpus"]


def test_the_suite_and_the_tool_agree_on_which_code_runs_on_which_gpu() -> None:
    builds = {(target.architectures, target.ptx) for target in load_matrix(LAYOUT.matrix).targets()} - {((), None)}
    compared = 0
    for capability, (architectures, ptx) in itertools.product(sorted(set(GPUS.values())), sorted(builds, key=str)):
        flags = [f"sm_{each.replace('.', '')}" for each in architectures]
        flags += [f"compute_{ptx.replace('.', '')}"] if ptx else []
        major, minor = map(int, capability.split("."))
        by_suite = how_it_runs((major, minor), flags)
        by_tool = code_for(capability, architectures, ptx)
        assert (by_suite or "").split(" ")[0].lower() == (by_tool or "").lower(), (capability, flags)
        compared += 1
    assert compared > 50
