"""torch-verify: prove the environment that this Python is in.

    torch-verify --expect cpu
    torch-verify --expect gpu --cuda 11.8

Works wherever there are torch and pytest: in a conda environment, locked or not, and in a virtual environment. Takes
nothing but the standard library. The verdict has the form that `torchlocks verify --json` prints.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torchsuite import __version__, expect, found
from torchsuite.found import Found, NoTorchError
from torchsuite.imports import ending
from torchsuite.tiers import TIERS

#: How many processes a run may take: each check that ends one costs the start of another.
PROCESSES = 4

#: Every check has its own time limit; a process that says nothing for this long is stuck between two.
SILENCE_SECONDS = 600.0

FAILED, UNUSABLE = 1, 2
"""Exit codes: something is wrong with the environment, or it cannot be looked at."""


@dataclass
class Transcript:
    """The suite's events so far, as `stream.py` describes them."""

    tiers: list[dict[str, Any]] = field(default_factory=list)
    planned: dict[str, dict[str, Any]] = field(default_factory=dict)
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    running: str | None = None
    ended: bool = False

    def add(self, event: dict[str, Any]) -> None:
        """Take in one event."""
        kind = event.pop("event")
        if kind in ("started", "collecting"):
            self.running = event["id"]
        elif kind == "finished":
            self.finished[event["id"]] = event
            self.running = None
        elif kind == "planned":
            self.running = None
            self.planned.update({check["id"]: check for check in event["checks"]})
        elif kind == "tiers":
            self.tiers = event["tiers"]
        elif kind == "facts":
            self.facts.update(event["facts"])
        elif kind == "ended":
            self.ended = True

    def died(self, why: str, error: str) -> None:
        """The process is gone before its time: blame the check that was running."""
        guilty = self.running or "the suite itself"
        plan = self.planned.get(guilty, {"id": guilty, "tier": TIERS[0], "reason": "the suite runs to its end"})
        self.fail(plan["id"], plan["tier"], plan["reason"], why, error)
        self.running = None

    def fail(self, check: str, tier: str, reason: str, why: str, error: str | None = None) -> None:
        """Record a failure."""
        self.finished[check] = _check(check, tier, reason, "failed", why, error)

    def give_up(self) -> None:
        """Account for the checks that never ran."""
        for check, plan in self.planned.items():
            if check not in self.finished:
                why = "not run: the suite's process ended too often"
                self.finished[check] = _check(check, plan["tier"], plan["reason"], "skipped", why)


def main(arguments: Sequence[str] | None = None) -> int:
    """The `torch-verify` command: 0 when the environment is what it is expected to be, 1 when not, 2 when unusable."""
    options = _parser().parse_args(arguments)
    if options.where:
        print(checks_folder())
        return 0
    if options.expect is None:
        print("torch-verify: say what to expect: --expect cpu or --expect gpu", file=sys.stderr)
        return UNUSABLE
    if options.cuda and options.expect == "cpu":
        print("torch-verify: --cuda goes with --expect gpu; a CPU environment has no CUDA", file=sys.stderr)
        return UNUSABLE
    try:
        environment = found.find()
    except (NoTorchError, ValueError) as error:
        print(
            f"torch-verify: {error}\n  fix: run it with the Python of the environment that has torch", file=sys.stderr
        )
        return UNUSABLE
    verdict = verify(
        environment,
        accelerator="cuda" if options.expect == "gpu" else "cpu",
        cuda=options.cuda,
        tiers=tuple(tier for tier in TIERS if tier in (options.tier or TIERS)),
        select=options.select,
        quiet=options.json,
    )
    text = json.dumps(verdict, indent=2)
    if options.report:
        try:
            Path(options.report).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            print(f"torch-verify: the report cannot be written to {options.report}: {error.strerror}", file=sys.stderr)
            return UNUSABLE
    print(text if options.json else summary(verdict))
    return 0 if verdict["ok"] else FAILED


def verify(
    environment: Found,
    *,
    accelerator: str,
    cuda: str | None,
    tiers: tuple[str, ...] = TIERS,
    select: str | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Run the suite in `environment`, and return the verdict in the form of torchlocks' `reports/<env>.json`.

    `accelerator` is cpu or cuda, `cuda` a version (major.minor) or None, `select` a pytest -k expression.
    """
    began, clock = datetime.now(timezone.utc), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torch-verify-", ignore_cleanup_errors=True) as folder:
        work = Path(folder).resolve()
        told = expect.document(environment, accelerator, cuda, tiers, work / "events.jsonl")
        transcript = _run(_command(work, select), told, work, quiet)
    checks = list(transcript.finished.values())
    outcomes = Counter(check["outcome"] for check in checks)
    host = _host(transcript.facts)
    verdict: dict[str, Any] = {
        "schema_version": 1,
        "torchlocks": f"torch-verify {__version__}",
        "env": environment.prefix.name,
        "platform": environment.platform,
        "accelerator": accelerator,
        "cuda": cuda,
        "prefix": os.fspath(environment.prefix),
        "lock_path": environment.lock_name,
        "lock_sha256": environment.lock_sha256,
        "channels": list(environment.channels),
        "select": select,
        "tiers_selected": list(tiers),
        "started_at": began.isoformat(),
        "duration_s": round(time.monotonic() - clock, 3),
        "host": host,
        "facts": transcript.facts,
        "tiers": transcript.tiers,
        "checks": checks,
        "ok": not outcomes["failed"] and outcomes["passed"] > 0,
        "complete": select is None and tiers == TIERS,
    }
    return {**verdict, **conclusion(verdict)}


def conclusion(verdict: dict[str, Any]) -> dict[str, str]:
    """`state` and `headline`: what the checks come to, in one word and in one line."""
    checks = verdict["checks"]
    failures = [check for check in checks if check["outcome"] == "failed"]
    passed = [check for check in checks if check["outcome"] == "passed"]
    if failures:
        others = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
        return {
            "state": "failed",
            "headline": f"FAILED: {failures[0]['id']}: {failures[0]['why'] or 'failed'}{others}",
        }
    if not passed:
        return {"state": "nothing", "headline": "nothing ran, so nothing is proven"}
    reached = {check["tier"] for check in passed}
    wanted = {"cpu"} if verdict["accelerator"] == "cpu" else {"gpu", "cuda-build"}
    if not verdict["complete"] or not wanted & reached:
        return {"state": "partial", "headline": f"{len(passed)} checks passed, of a part of the suite"}
    if verdict["accelerator"] == "cpu":
        return {"state": "cpu", "headline": "CPU environment verified"}
    if "gpu" in reached:
        names = verdict["host"]["gpus"]
        on = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "a GPU"
        return {"state": "gpu", "headline": f"CUDA environment verified on {on}"}
    obstacle = next((tier["obstacle"] for tier in verdict["tiers"] if tier["tier"] == "gpu"), None)
    why = (obstacle or "no check ran on it").removeprefix("not run: ")
    return {"state": "cuda-build", "headline": f"CUDA build verified, GPU not verified ({why})"}


def summary(verdict: dict[str, Any]) -> str:
    """The verdict for a terminal: counts by tier, every failure, why checks were skipped, and the headline."""
    lines = [f"{'tier':<12}{'passed':>7}{'failed':>8}{'skipped':>9}"]
    for state in verdict["tiers"]:
        counts = Counter(check["outcome"] for check in verdict["checks"] if check["tier"] == state["tier"])
        row = f"{state['tier']:<12}{counts['passed']:>7}{counts['failed']:>8}{counts['skipped']:>9}"
        lines.append(f"{row}  {state['obstacle'] or ''}".rstrip())
    lines += [f"failed  {c['id']}: {c['why']}" for c in verdict["checks"] if c["outcome"] == "failed"]
    # What stands beside a tier already is not said again.
    said = {(state["tier"], state["obstacle"]) for state in verdict["tiers"]}
    skipped = (check for check in verdict["checks"] if check["outcome"] == "skipped")
    reasons = Counter(check["why"] for check in skipped if (check["tier"], check["why"]) not in said)
    lines += [f"skipped {count}: {why}" for why, count in reasons.items()]
    state = "is what it is expected to be" if verdict["ok"] else "is NOT what it is expected to be"
    return "\n".join([*lines, f"{verdict['prefix']} {state}", verdict["headline"]])


def checks_folder() -> Path:
    """Where the checks are: below this package once it is installed, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return here / "checks" if (here / "checks").is_dir() else here.parent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torch-verify", description="Prove the PyTorch environment of this Python.")
    parser.add_argument("--expect", choices=("cpu", "gpu"), help="what the environment is for")
    parser.add_argument("--cuda", type=_cuda_version, help="the CUDA version it is for, such as 11.8")
    parser.add_argument("-k", dest="select", metavar="EXPRESSION", help="only the checks that match, as for pytest -k")
    parser.add_argument("--tier", action="append", choices=TIERS, help="only this tier (may be given several times)")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON, and nothing else")
    parser.add_argument("--report", metavar="FILE", help="write the verdict as JSON to a file, too")
    parser.add_argument("--where", action="store_true", help="print the folder of the checks, and exit")
    parser.add_argument("--version", action="version", version=f"torch-verify {__version__}")
    return parser


def _cuda_version(text: str) -> str:
    if not re.fullmatch(r"\d+\.\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a CUDA version: give major and minor, such as 12.9")
    return text


def _command(work: Path, select: str | None) -> list[str]:
    checks = os.fspath(checks_folder())
    return [
        *(sys.executable, "-I", "-m", "pytest", checks, "-q", "-c", os.path.join(checks, "pytest.ini")),  # noqa: PTH118
        *("--rootdir", checks, "--confcutdir", checks, "--basetemp", os.fspath(work / "tmp")),
        *(("-k", select) if select else ()),
    ]


def _run(command: list[str], told: dict[str, Any], work: Path, quiet: bool) -> Transcript:
    """Run the suite to its end; behind a check that ends the process, a new one goes on."""
    transcript = Transcript()
    for _ in range(PROCESSES):
        expectation = work / "expect.json"
        expectation.write_text(json.dumps({**told, "done": sorted(transcript.finished)}), encoding="utf-8")
        (work / "events.jsonl").unlink(missing_ok=True)
        status = _run_process(command, expectation, work, quiet)
        transcript.ended = False
        for line in _lines(work / "events.jsonl"):
            transcript.add(json.loads(line))
        if transcript.ended and status in (0, 1, 5):
            # pytest: 0 all passed, 1 some failed, 5 nothing was selected; anything else is an error of the run itself.
            return transcript
        known = transcript.running is not None
        why = "hung and was ended" if status is None else ending(status)
        transcript.died(why, "\n".join([*_lines(work / "events.faults"), *_lines(work / "suite.log")[-60:]]))
        if not known:
            break
    transcript.give_up()
    return transcript


def _run_process(command: list[str], expectation: Path, work: Path, quiet: bool) -> int | None:
    """The exit status of one process of the suite; None where it had to be ended."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    environment = {
        **kept,
        "PYTHONNOUSERSITE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "TORCHINDUCTOR_CACHE_DIR": os.fspath(work / "inductor"),
        expect.VARIABLE: os.fspath(expectation),
    }
    events, heard, size = work / "events.jsonl", time.monotonic(), 0
    with (work / "suite.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    return process.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    pass
                now = events.stat().st_size if events.exists() else 0
                if now != size:
                    heard, size = time.monotonic(), now
                    if not quiet and sys.stderr.isatty():
                        done = sum('"event": "finished"' in line for line in _lines(events))
                        print(f"\r{done} checks done", end="", file=sys.stderr, flush=True)
                if time.monotonic() - heard > SILENCE_SECONDS:
                    return None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if not quiet and sys.stderr.isatty():
                print("\r\033[K", end="", file=sys.stderr)


def _lines(file: Path) -> list[str]:
    """The complete lines of a file; none where it is not there."""
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8", errors="replace")
    return text[: text.rfind("\n") + 1].splitlines() if file.suffix == ".jsonl" else text.splitlines()


def _check(
    check: str, tier: str, reason: str, outcome: str, why: str | None, error: str | None = None
) -> dict[str, Any]:
    return {
        "id": check,
        "tier": tier,
        "reason": reason,
        "outcome": outcome,
        "why": why,
        "error": error or None,
        "duration_s": 0.0,
        "values": {},
    }


def _host(facts: dict[str, Any]) -> dict[str, Any]:
    libc, version = platform.libc_ver()
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "libc": f"{libc} {version}" if libc else None,
        "cpu": platform.processor() or None,
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 1,
        "memory_bytes": None,
        "driver": facts.get("driver_version"),
        "driver_cuda": facts.get("driver_cuda"),
        "gpus": facts.get("gpus", []),
    }
