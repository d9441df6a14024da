"""Runs checks of the suite, each sabotaged, in the environment of this Python; see `suite_sabotages.py`.

    python -I sabotage_child.py SUITE WORK [cuda-build]

leaves `WORK/events.jsonl`. The table is that of the CPU's checks, or of CUDA builds.
Checks whose packages the environment does not have are skipped, as ever.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(suite: Path, work: Path, tier: str) -> int:
    sys.path[:0] = [os.fspath(suite), os.fspath(Path(__file__).parent)]
    import pytest

    from suite_sabotages import OF_CUDA_BUILDS, SABOTAGES
    from torchsuite import expect, found

    told = {
        **expect.document(found.find(), "cpu" if tier == "cpu" else "cuda", None, (tier,)),
        "events": os.fspath(work / "events.jsonl"),
        "only": list(SABOTAGES if tier == "cpu" else OF_CUDA_BUILDS),
        "threads": 1,
    }
    (work / "expect.json").write_text(json.dumps(told), encoding="utf-8")
    os.environ[expect.VARIABLE] = os.fspath(work / "expect.json")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.fspath(work / "inductor")
    # For two kernels they cost more than they save, and they stay in the folder for temporary files.
    os.environ["TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"] = "0"
    # One case of a check with parameters is enough, and the packages take longest.
    return pytest.main(
        [
            *(os.fspath(suite), "-q", "-p", "suite_sabotages", "-c", os.fspath(suite / "pytest.ini")),
            *("--rootdir", os.fspath(suite), "--confcutdir", os.fspath(suite), "--basetemp", os.fspath(work / "tmp")),
        ]
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), (sys.argv[3:] or ["cpu"])[0]))
