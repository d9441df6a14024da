"""What the README, the site, `index.json`, `pick` and `doctor` show of evidence, now and after a lock has changed."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from evidence_samples import A100, DATE, UBUNTU, commit, proving, repository, written
from torchlocks.check.rules.evidence import check_evidence
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Silent
from torchlocks.evidence.record import record_of
from torchlocks.evidence.store import write_record
from torchlocks.evidence.summary import age, all_proofs, differing
from torchlocks.evidence.tables import update_tables
from torchlocks.host.record import Host
from torchlocks.matrix.load import load_matrix
from torchlocks.matrix.table import summary_markdown
from torchlocks.pages.badge import badge
from torchlocks.site.catalogue import read_catalogue
from torchlocks.site.write import write_site

CI = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_REPOSITORY": "someone/locks",
    "GITHUB_WORKFLOW_REF": "someone/locks/.github/workflows/verify.yml@refs/heads/main",
    "GITHUB_RUN_ID": "123",
}
H100 = A100.model_copy(update={"gpus": ("NVIDIA H100 80GB HBM3",) * 2, "driver": "580.65.06"})
GPU = "verified on 2 x H100 (driver 580), A100 (driver 550); CI (build verified): Ubuntu 24.04"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A repository in which gpu-cu126 was proven on two machines and in CI, and cpu in CI."""
    layout = repository(tmp_path_factory.mktemp("shown"), "cpu", "gpu-cu126")
    table = summary_markdown(load_matrix(layout.matrix))
    (layout.root / "README.md").write_text(f"# It\n\n{table}\nThe end.\n", encoding="utf-8")
    for env, host, environ in (
        ("gpu-cu126", A100, {}),
        ("gpu-cu126", H100, {}),
        ("gpu-cu126", UBUNTU, CI),
        ("cpu", UBUNTU, CI),
    ):
        report = written(layout, proving(layout, env, host=host))
        write_record(layout, record_of(layout, report, environ=environ))
    update_tables(layout, load_matrix(layout.matrix))
    commit(layout, "Evidence")
    for path in layout.reports.glob("*"):
        path.unlink()
    return layout


@pytest.fixture(scope="module")
def changed(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The same, after a commit that moved two packages of gpu-cu126 on linux-64."""
    import shutil

    root = tmp_path_factory.mktemp("changed") / "checkout"
    shutil.copytree(layout.root, root)
    after = Layout(root)
    for path in (after.locks / "gpu-cu126").iterdir():
        text = path.read_text(encoding="utf-8")
        for name in ("nccl", "zstd"):
            text = re.sub(rf"/linux-64/{name}-([\d.]+)-", rf"/linux-64/{name}-9.\1-", text)
        # conda-lock.yml has versions of their own.
        text = re.sub(
            r"(- name: (?:nccl|zstd)\n  version: )([\d.]+)(\n(?:  .*\n)*?  platform: linux-64)", r"\g<1>9.\2\3", text
        )
        path.write_text(text, encoding="utf-8")
    commit(after, "Move two packages")
    return after


def test_what_is_proven(layout: Layout) -> None:
    proofs = all_proofs(layout)
    assert proofs["gpu-cu126/linux-64"].text() == GPU
    assert proofs["cpu/linux-64"].text() == "CI: Ubuntu 24.04"
    assert proofs["gpu-cu126/linux-64"].state == "gpu"
    assert proofs["gpu-cu126/linux-64"].not_covered(cuda=True) == ()
    assert set(proofs) == {"gpu-cu126/linux-64", "cpu/linux-64"}


def test_what_is_not_covered(layout: Layout, tmp_path: Path) -> None:
    lone = repository(tmp_path, "gpu-cu126")
    report = written(lone, proving(lone, "gpu-cu126", left_out="test_cpu_numerics.py::test_fft"))
    write_record(lone, record_of(lone, report, environ={}))
    proofs = all_proofs(lone)["gpu-cu126/linux-64"]
    assert proofs.text() == "partly verified on Ubuntu 24.04"
    assert proofs.not_covered(cuda=True) == ("computing on a GPU", "fft: required, not proven", "several GPUs")


def test_the_readme_shows_it(layout: Layout) -> None:
    text = (layout.root / "README.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("| gpu-cu126 |") and line.endswith(f"| {GPU} |")]
    assert [line for line in text.splitlines() if line.startswith("| gpu-cu118 |") and line.endswith("| none yet |")]
    assert update_tables(layout, load_matrix(layout.matrix)) == []


def test_a_changed_lock_keeps_its_evidence_as_history(changed: Layout) -> None:
    assert check_evidence(changed).findings == ()
    proofs = all_proofs(changed)["gpu-cu126/linux-64"]
    assert (proofs.state, len(proofs.proofs)) == (None, 3)
    assert proofs.text() == f"proven for a previous lock, 2 packages differ ({GPU})"
    assert [path.name for path in update_tables(changed, load_matrix(changed.matrix))] == ["README.md"]
    assert "2 packages differ" in (changed.root / "README.md").read_text(encoding="utf-8")
    index = read_catalogue(changed).index
    (entry,) = (each for env, each in index.cells() if env.name == "gpu-cu126" and each.platform == "linux-64")
    assert entry.verification.state == "outdated"
    assert [each.differing for each in entry.evidence] == [2, 2, 2]
    # Other platforms of the same file have no evidence, and the CPU environment's stays.
    assert next(each.verification.state for env, each in index.cells() if env.name == "cpu") == "verified"


def test_the_index_has_records(layout: Layout) -> None:
    cells = {f"{env.name}/{each.platform}": each for env, each in read_catalogue(layout).index.cells()}
    entry = cells["gpu-cu126/linux-64"]
    assert (entry.verification.state, entry.verification.text) == ("verified", GPU)
    assert {each.machine for each in entry.evidence} == {"A100 (driver 550)", "2 x H100 (driver 580)", "Ubuntu 24.04"}
    assert {each.run for each in entry.evidence} == {None, "https://github.com/someone/locks/actions/runs/123"}
    assert cells["gpu-cu126/win-64"].verification.state == "none"
    assert cells["cpu/linux-64"].not_covered == ()


def test_a_failure_here_is_not_hidden_by_evidence(layout: Layout) -> None:
    report = layout.reports / "cpu.json"
    try:
        failing = proving(layout, "cpu", failed="test_cpu_numerics.py::test_fft")
        report.write_text(failing.model_dump_json(), encoding="utf-8")
        cells = {f"{env.name}/{each.platform}": each for env, each in read_catalogue(layout).index.cells()}
    finally:
        report.unlink()
    assert cells["cpu/linux-64"].verification.state == "failed"


def run(layout: Layout, monkeypatch: pytest.MonkeyPatch, module: str, command: str, *arguments: str) -> str:
    import importlib

    monkeypatch.setenv("TORCHLOCKS_ROOT", str(layout.root))
    verb = getattr(importlib.import_module(f"torchlocks.cli.commands.{module}"), command)
    result = CliRunner().invoke(verb, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_doctor_shows_it(layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = tmp_path / "host.json"
    host.write_text(json.dumps(asdict(Host(platform="linux-64", glibc="2.39"))), encoding="utf-8")
    told = json.loads(run(layout, monkeypatch, "doctor", "doctor", "--host", str(host), "--json"))
    evidence = {each["env"]: each["evidence"] for each in told["environments"]}
    assert evidence == {"cpu": "CI: Ubuntu 24.04", "gpu-cu126": GPU}
    assert "A100 (driver 550)" in run(layout, monkeypatch, "doctor", "doctor", "--host", str(host))


def test_pick_shows_it(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--driver", "550", "--gpu", "A100", "--platform", "linux-64", "--cuda", "12.6")
    assert GPU in run(layout, monkeypatch, "site", "pick", *arguments)
    told = json.loads(run(layout, monkeypatch, "site", "pick", *arguments, "--json"))
    assert len(told["entry"]["evidence"]) == 3


def test_evidence_verbs(layout: Layout, changed: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = json.loads(run(changed, monkeypatch, "evidence", "evidence", "list", "--json"))
    assert {(each["current"], each["differing"]) for each in listed["gpu-cu126/linux-64"]} == {(False, 2)}
    assert f"gpu-cu126/linux-64: {GPU}" in run(layout, monkeypatch, "evidence", "evidence", "list")
    assert run(layout, monkeypatch, "evidence", "evidence", "list", "--env", "cpu").count("\n") == 1
    record = next(path for path in layout.evidence.rglob("*.json") if "a100" in path.name)
    shown = run(layout, monkeypatch, "evidence", "evidence", "show", str(record))
    assert "NVIDIA A100-SXM4-80GB, driver 550.54.14" in shown


def test_the_site_shows_it(changed: Layout) -> None:
    write_site(changed, Silent())
    site = changed.build / "site"
    home = (site / "index.html").read_text(encoding="utf-8")
    assert "proven for a previous lock, 2 packages differ" in home
    assert "CI: Ubuntu 24.04" in home
    page = (site / "env" / "gpu-cu126" / "linux-64.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<li class="proof">', page)) == 3
    assert re.search(r'<li class="change"><time datetime="[\d-]+">[\d-]+</time> <span>2 packages changed', page)
    for path in re.findall(r'href="\.\./\.\./(evidence/[^"]+)"', page):
        assert (site / path).is_file()
    for env, message in (("cpu", "CI: Ubuntu 24.04"), ("gpu-cu126", "proven for a previous lock")):
        text = (site / "badges" / f"{env}.svg").read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).get("aria-label") == f"torchlocks {env}: {message}"
        assert len(text) < 2000


def test_a_badge_is_xml_whatever_its_text() -> None:
    svg = badge("a <b>", 'x & "y" ' * 30, "warn")
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label", "").startswith("a <b>: x &")
    assert float(root.get("width", "0")) < 520


def test_ages() -> None:
    assert [age(DATE, DATE + timedelta(days=days)) for days in (-1, 0, 1, 40)] == [
        "today",
        "today",
        "1 day ago",
        "40 days ago",
    ]


def test_packages_that_differ_are_counted_by_name() -> None:
    assert differing(["a 1 0", "b 1 0"], ["a 2 0", "b 1 0", "c 1 0"]) == 2
    assert differing(["a 1 0"], ["a 1 0"]) == 0
