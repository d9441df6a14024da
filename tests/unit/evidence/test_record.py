"""From a report to a record: what is taken over, what is refused, and that nothing private gets through."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from evidence_samples import A100, DATE, UBUNTU, proving, repository, written
from golden import EVIDENCE_SCHEMA
from torchlocks.core.errors import EvidenceError, MissingFileError
from torchlocks.core.layout import Layout
from torchlocks.evidence.claims import parse_table
from torchlocks.evidence.machine import machine_of, system_of
from torchlocks.evidence.model import evidence_json, evidence_schema
from torchlocks.evidence.record import parse_record, record_of
from torchlocks.evidence.store import read_record, write_record
from torchlocks.evidence.summary import short_gpu
from torchlocks.lockfile.formats import read_lock

WORKFLOW = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_REPOSITORY": "someone/locks",
    "GITHUB_WORKFLOW_REF": "someone/locks/.github/workflows/verify.yml@refs/heads/main",
    "GITHUB_RUN_ID": "123",
    "GITHUB_ACTOR": "someone",
}
MATMUL = "test_cpu_numerics.py::test_matmul"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return repository(tmp_path_factory.mktemp("repository"), "cpu", "gpu-cu126")


def test_the_schema_is_committed() -> None:
    assert EVIDENCE_SCHEMA.read_text(encoding="utf-8") == evidence_schema(), "run `make golden`"


def test_a_report_becomes_a_record(layout: Layout) -> None:
    record = record_of(layout, written(layout, proving(layout, "gpu-cu126", host=A100)), environ={})
    assert (record.state, record.client, record.workflow, record.account) == ("gpu", "torchlocks", None, None)
    assert (record.machine.system, record.machine.glibc) == ("Ubuntu 24.04", "2.39")
    assert (record.machine.gpus, record.machine.driver) == (("NVIDIA A100-SXM4-80GB",), "550.54.14")
    lock = read_lock(layout.locks / "gpu-cu126" / "conda-lock.yml")
    assert record.lock_sha256 == lock.sha256
    assert len(record.packages) == len(lock.packages["linux-64"])
    assert record.gaps == ()
    path = write_record(layout, record)
    assert path is not None
    kind = "ubuntu-24.04-a100-sxm4-80gb-driver-550.54.14"
    assert path.name == f"{lock.sha256[:12]}-linux-64-{kind}-torchlocks.json"
    assert read_record(path) == record
    assert path.stat().st_size < 20_000


def test_the_workflow_is_named_from_its_variables(layout: Layout) -> None:
    record = record_of(layout, written(layout, proving(layout, "cpu")), environ=WORKFLOW)
    assert record.workflow is not None
    assert record.workflow.url == "https://github.com/someone/locks/actions/runs/123"
    with pytest.raises(EvidenceError):
        record_of(layout, written(layout, proving(layout, "cpu")), environ={**WORKFLOW, "GITHUB_RUN_ID": "x; rm"})


SECRETS = ("alice", "gpu17.corp.example", "/home/alice", "10.1.2.3", "hunter2")


def test_nothing_private_gets_into_a_record(layout: Layout) -> None:
    """Every free text of a report names a person, a machine, a path or a secret."""
    planted = " ".join(SECRETS)
    verdict = proving(layout, "gpu-cu126", host=A100)
    checks = tuple(
        each.model_copy(update={"values": {"host": planted}, "reason": planted, "why": planted, "error": planted})
        for each in verdict.checks
    )
    host = A100.model_copy(
        update={
            "release": f"Ubuntu 24.04 {planted}",
            "libc": f"glibc 2.39 {planted}",
            "cpu": planted,
            "driver": f"550.54.14 {planted}",
            "driver_cuda": planted,
            "gpus": ("NVIDIA A100-SXM4-80GB", planted, f"NVIDIA {planted}"),
        }
    )
    everywhere = {
        "checks": checks,
        "host": host,
        "facts": {"user": planted, planted: planted},
        "prefix": f"/home/alice/{planted}",
        "lock_path": f"/home/alice/{planted}",
        "channels": (f"https://alice:hunter2@{planted}/conda-forge",),
        "headline": planted,
        "tiers": tuple(each.model_copy(update={"obstacle": each.obstacle and planted}) for each in verdict.tiers),
    }
    report = written(layout, verdict.model_copy(update=everywhere))
    document = json.loads(report.read_text(encoding="utf-8"))
    report.write_text(json.dumps({**document, "hostname": planted, "user": "alice"}), encoding="utf-8")
    record = record_of(layout, report, environ={**WORKFLOW, "USER": "alice", "RUNNER_NAME": "gpu17.corp.example"})
    text = evidence_json(record) + record.name
    assert not [secret for secret in SECRETS if secret in text]
    assert record.machine.gpus == ("NVIDIA A100-SXM4-80GB", "NVIDIA GPU", "NVIDIA GPU")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("hostname",), "gpu17"),
        (("prefix",), "/home/alice"),
        (("machine", "hostname"), "gpu17"),
        (("machine", "system"), "Ubuntu 24.04 on gpu17"),
        (("machine", "gpus"), ["NVIDIA of alice"]),
        (("account",), "alice@corp.example"),
        (("client",), "/home/alice/bin/conda"),
        (("suite",), "0.1.0 of alice"),
        (("state",), "certified"),
        (("packages",), ["python 3.12 https://alice:hunter2@corp"]),
    ],
)
def test_a_private_or_unknown_field_is_refused(layout: Layout, place: tuple[str, ...], value: object) -> None:
    document = json.loads(
        evidence_json(record_of(layout, written(layout, proving(layout, "gpu-cu126", host=A100)), environ={}))
    )
    inner = document
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(EvidenceError) as caught:
        parse_record(document, "evidence/x.json")
    assert ".".join(place) in str(caught.value)
    assert caught.value.exit_code == 66


@pytest.mark.parametrize(
    "changed",
    [
        {"lock_sha256": "0" * 64},
        {"lock_sha256": "0" * 64, "channels": ("file:///build/channel",)},
        {"env": "../../etc"},
        {"env": "cpu-of-nobody"},
        {"platform": "linux-ppc64le"},
        {"quick": True},
        {"complete": False},
        {"state": "gpu"},
        {"started_at": DATE + timedelta(days=3650)},
    ],
)
def test_a_report_that_proves_nothing_of_a_committed_lock_is_refused(
    layout: Layout, changed: dict[str, object]
) -> None:
    report = written(layout, proving(layout, "cpu").model_copy(update=changed))
    with pytest.raises(EvidenceError):
        record_of(layout, report, environ={})


def test_a_report_that_was_edited_is_refused(layout: Layout) -> None:
    """It says that all is proven; a required check is not among its checks, or did not pass."""
    good = proving(layout, "gpu-cu126", host=A100)
    for broken in (
        proving(layout, "gpu-cu126", host=A100, left_out=MATMUL, state=good.state, gaps=(), headline="fine"),
        proving(layout, "gpu-cu126", host=A100, failed=MATMUL, state=good.state, ok=True, gaps=(), headline="fine"),
    ):
        with pytest.raises(EvidenceError):
            record_of(layout, written(layout, broken), environ={})


def test_the_client_is_known_or_named(layout: Layout) -> None:
    report = written(layout, proving(layout, "cpu", client="unknown"))
    with pytest.raises(EvidenceError):
        record_of(layout, report, environ={})
    assert record_of(layout, report, client="conda", environ={}).client == "conda"


def test_a_report_with_gaps_is_partial(layout: Layout) -> None:
    record = record_of(layout, written(layout, proving(layout, "cpu", left_out=MATMUL)), environ={})
    assert (record.state, record.gaps) == ("partial", (MATMUL,))


def test_what_is_no_report(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        record_of(layout, tmp_path / "nothing.json", environ={})
    for text in ("", "[]", "{}", "[" * 100_000, "\0"):
        (tmp_path / "it.json").write_text(text)
        with pytest.raises(EvidenceError):
            record_of(layout, tmp_path / "it.json", environ={})


def test_a_newer_record_of_the_same_kind_replaces_an_older(layout: Layout) -> None:
    old = record_of(layout, written(layout, proving(layout, "cpu")), environ={})
    new = record_of(layout, written(layout, proving(layout, "cpu", started_at=DATE + timedelta(days=2))), environ={})
    path = write_record(layout, new)
    assert path is not None
    assert write_record(layout, old) is None
    assert read_record(path) == new


@pytest.mark.parametrize(
    ("system", "release", "name"),
    [
        ("Linux", "Debian GNU/Linux 12 (bookworm)", "Debian 12"),
        ("Linux", "Rocky Linux 9.4 (Blue Onyx)", "Rocky Linux 9"),
        ("Linux", "Red Hat Enterprise Linux 9.4 (Plow)", "RHEL 9.4"),
        ("Linux", "Fedora Linux 42", "Fedora 42"),
        ("Linux", "Ubuntu 24.04.3 LTS", "Ubuntu 24.04"),
        ("Linux", "CentOS Stream 9", "CentOS 9"),
        ("Linux", "Arch Linux", "Arch Linux"),
        ("Linux", "Corp Linux of alice 7", "Linux"),
        ("Linux", "6.1.0-gpu17.corp", "Linux"),
        ("Darwin", "24.6.0", "macOS 15"),
        ("Darwin", "25.0.0", "macOS 26"),
        ("Windows", "2025Server", "Windows 2025"),
        ("Windows", "11", "Windows 11"),
        ("Windows", "of alice", "Windows"),
    ],
)
def test_systems(system: str, release: str, name: str) -> None:
    assert system_of(system, release) == name


def test_a_processor_of_no_known_kind() -> None:
    with pytest.raises(EvidenceError):
        machine_of(UBUNTU.model_copy(update={"machine": "alice"}), with_gpus=False)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090"),
        ("NVIDIA Tesla V100-PCIE-16GB", "V100"),
        ("NVIDIA GPU", "GPU"),
    ],
)
def test_short_names_of_gpus(name: str, short: str) -> None:
    assert short_gpu(name) == short


@pytest.mark.parametrize(
    "table",
    [
        "-" * 100_000 + "1",
        "a." * 60_000 + "b",
        "{'cpu': (Check('a', only=b'x'),)}",
        "{'cpu': (Check('a', only=['x']),)}",
    ],
)
def test_a_table_of_required_checks_that_is_none_is_a_value_error(table: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_table(f"REQUIRED: object = {table}")
