"""torch-verify: prove the environment that this Python is in.

    torch-verify --expect cpu
    torch-verify --expect gpu --cuda 11.8

Works wherever there are torch and pytest: in a conda environment, locked or not, and in a virtual environment. Takes
nothing but the standard library. `torchlocks verify` runs this command, too, and reads its report.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any

from torchsuite import __version__, expect, found, host, required, runner, verdict
from torchsuite.found import Found, NoTorchError
from torchsuite.tier_names import ON_DEVICES, TIERS

FAILED, UNUSABLE = 1, 2
"""Exit codes: something is wrong with the environment, or it cannot be looked at."""

ROOM_FOR_HEADERS = 2_000_000_000
"""Free bytes in the folder for temporary files from which on Inductor precompiles its headers: 150 MB for each set of
compiler options, of which a run has two or three (torch 2.13)."""

LONGEST_SOCKET = 103
"""Bytes in the path of a Unix socket, on macOS; Linux has four more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The `torch-verify` command: 0 when the environment is what it is expected to be, 1 when not, 2 when unusable."""
    options = _parser().parse_args(arguments)
    if options.where:
        print(checks_folder())
        return 0
    if hasattr(signal, "SIGTERM"):
        # So that the workers are ended, too.
        signal.signal(signal.SIGTERM, _terminated)
    try:
        expected, about = _expected(options)
        report = verify(
            expected,
            about,
            select=options.select,
            quick=options.quick,
            workers=options.jobs,
            sealed=options.expectation is not None,
            events=Path(options.events) if options.events else None,
            quiet=options.json or options.expectation is not None,
        )
    except runner.SelectionError as error:
        return _unusable(f"the selection of checks is not an expression: {error}", "give one as for pytest -k")
    except (NoTorchError, ValueError) as error:
        return _unusable(str(error), "run it with the Python of the environment that has torch")
    text = json.dumps(report, indent=2)
    if options.report:
        try:
            Path(options.report).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            return _unusable(f"the report cannot be written to {options.report}: {error.strerror}")
    print(text if options.json else verdict.summary(report))
    return 0 if report["ok"] else FAILED


def verify(
    expected: dict[str, Any],
    about: dict[str, Any],
    *,
    select: str | None = None,
    quick: bool = False,
    workers: int | None = None,
    sealed: bool = False,
    events: Path | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Run the suite, and return its report.

    `expected` are the fields of `expect.Expectation`; `about` is what the report contains about the lock (`lock_path`,
    `lock_sha256`, `channels`). `select` is a pytest -k expression, `quick` runs the short set alone, `workers` is the
    number of processes (default: `processes`). `sealed`: the variables of this process are those that the checks are
    to have. Raises runner.SelectionError.
    """
    began, clock = datetime.now(timezone.utc), time.monotonic()
    if workers is None:
        # A selection is mostly a few checks: they are over before a second process has imported torch.
        workers = 1 if select or quick else processes(expected["tiers"])
    with tempfile.TemporaryDirectory(prefix="torch-verify-", ignore_cleanup_errors=True) as folder:
        work = Path(folder).resolve()
        run = runner.Run(
            command=_command(select),
            variables=_variables(work, sealed),
            expected={**expected, "only": required.quick() if quick else None},
            work=work,
            workers=workers,
            events=events,
            heard=_quiet if quiet or not sys.stderr.isatty() else _Counter(),
        )
        transcript = runner.execute(run)
    tiers = tuple(expected["tiers"])
    report: dict[str, Any] = {
        "schema_version": 1,
        "torchlocks": f"torch-verify {__version__}",
        **{name: expected[name] for name in ("env", "platform", "accelerator", "cuda", "prefix")},
        **about,
        "select": select,
        "quick": quick,
        "tiers_selected": list(tiers),
        "started_at": began.isoformat(),
        "duration_s": round(time.monotonic() - clock, 3),
        "workers": workers,
        "host": host.describe(transcript.facts),
        "facts": transcript.facts,
        "tiers": transcript.tiers,
        "checks": transcript.checks(),
        "complete": select is None and not quick and tiers == TIERS,
    }
    return {**report, **verdict.conclude(report)}


def processes(tiers: Sequence[str]) -> int:
    """One process a core, but none that would find nothing to claim: one alone runs all files that need a device."""
    files = [runner.likely_tier(file.name) for file in checks_folder().glob("test_*.py")]
    selected = [tier for tier in files if tier in tiers]
    shares = sum(tier not in ON_DEVICES for tier in selected) + any(tier in ON_DEVICES for tier in selected)
    return max(1, min(host.cores(), runner.MOST_WORKERS, shares))


def checks_folder() -> Path:
    """Where the checks are: below this package once it is installed, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return here / "checks" if (here / "checks").is_dir() else here.parent


def _expected(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the checks' expectation, and the report's fields on the lock. Raises NoTorchError and ValueError."""
    tiers = tuple(tier for tier in TIERS if tier in (options.tier or TIERS))
    if options.expectation:
        fields: dict[str, Any] = json.loads(Path(options.expectation).read_text(encoding="utf-8"))
        about = {name: fields.pop(name) for name in ("lock_path", "lock_sha256", "channels")}
        return {**fields, "tiers": tiers}, about
    environment = found.find()
    accelerator = "cuda" if options.expect == "gpu" else "cpu"
    return expect.document(environment, accelerator, options.cuda, tiers), _about(environment)


def _about(environment: Found) -> dict[str, Any]:
    return {
        "lock_path": environment.lock_name,
        "lock_sha256": environment.lock_sha256,
        "channels": list(environment.channels),
    }


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="torch-verify", description="Prove the PyTorch environment of this Python.")
    parser.add_argument("--expect", choices=("cpu", "gpu"), help="what the environment is for")
    parser.add_argument("--cuda", type=_cuda_version, help="the CUDA version it is for, such as 11.8")
    parser.add_argument("-k", dest="select", metavar="EXPRESSION", help="only the checks that match, as for pytest -k")
    parser.add_argument("--tier", action="append", choices=TIERS, help="only this tier (may be given several times)")
    parser.add_argument("--quick", action="store_true", help="the short set of checks, for those who switch often")
    parser.add_argument(
        "--jobs", type=_positive, metavar="N", help="how many processes (default: one a core, at most one a file)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON, and nothing else")
    parser.add_argument("--report", metavar="FILE", help="write the report as JSON to a file, too")
    parser.add_argument("--where", action="store_true", help="print the folder of the checks, and exit")
    parser.add_argument("--version", action="version", version=f"torch-verify {__version__}")
    # For the program that knows the lock: what it expects, and where it reads events as they happen.
    parser.add_argument("--expectation", metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--events", metavar="FILE", help=argparse.SUPPRESS)
    return parser


class _Parser(argparse.ArgumentParser):
    """With the rules that span several options."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options = super().parse_args(args, namespace)
        if not (options.where or options.expect or options.expectation):
            self.exit(UNUSABLE, "torch-verify: what to expect is missing: --expect cpu or --expect gpu\n")
        if options.cuda and options.expect == "cpu":
            self.exit(UNUSABLE, "torch-verify: --cuda goes with --expect gpu; a CPU environment has no CUDA\n")
        return options


def _cuda_version(text: str) -> str:
    if not re.fullmatch(r"\d+\.\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a CUDA version: give major and minor, such as 12.9")
    return text


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes")
    return int(text)


def _command(select: str | None) -> list[str]:
    checks = os.fspath(checks_folder())
    return [
        *(sys.executable, "-I", "-m", "pytest", checks, "-q", "-c", os.path.join(checks, "pytest.ini")),  # noqa: PTH118
        *("--rootdir", checks, "--confcutdir", checks),
        *(("-k", select) if select else ()),
    ]


def _variables(work: Path, sealed: bool) -> dict[str, str]:
    """The variables of the workers: what is Python's or pytest's would change what is tested."""
    outside = dict(os.environ)
    if not sealed:
        outside = {name: value for name, value in outside.items() if not name.startswith(("PYTHON", "PYTEST"))}
        outside["PYTHONNOUSERSITE"] = "1"
    # Caches of this run: no result of an earlier one replaces a compiler, and no check compiles what another has.
    caches = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton", "TORCH_EXTENSIONS_DIR": "extensions"}
    temporary = _temporary(work)
    # Inductor keeps them in the folder for temporary files, where they would stay if it were not the run's own.
    precompiled = bool(temporary) and shutil.disk_usage(work).free >= ROOM_FOR_HEADERS
    return {
        **outside,
        **temporary,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": str(int(precompiled)),
        **{name: os.fspath(work / folder) for name, folder in caches.items()},
    }


def _temporary(work: Path) -> dict[str, str]:
    """The variables for temporary files in the run's folder: torch's elastic agent does not delete its own.

    Empty if the path is too long for the sockets that multiprocessing makes there (`pymp-XXXXXXXX/listener-XXXXXXXX`).
    """
    folder = work / "tmp"
    if len(os.fsencode(folder)) + len("/pymp-XXXXXXXX/listener-XXXXXXXX") > LONGEST_SOCKET:
        return {}
    folder.mkdir(exist_ok=True)
    return dict.fromkeys(("TMPDIR", "TEMP", "TMP"), os.fspath(folder))


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _unusable(message: str, fix: str | None = None) -> int:
    print(f"torch-verify: {message}" + (f"\n  fix: {fix}" if fix else ""), file=sys.stderr)
    return UNUSABLE


def _quiet(_event: dict[str, Any]) -> None:
    """Shows nothing."""


class _Counter:
    """Counts finished checks on a terminal."""

    def __init__(self) -> None:
        self._done = 0

    def __call__(self, event: dict[str, Any]) -> None:
        self._done += event["event"] == "finished"
        line = "\r\033[K" if event["event"] == "ended" else f"\r{self._done} checks done"
        print(line, end="", file=sys.stderr, flush=True)
