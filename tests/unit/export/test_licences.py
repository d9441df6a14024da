"""Licences of conda packages: which are expressions of SPDX, and what kind they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from torchlocks.cli.commands.supply import licences
from torchlocks.core.errors import LicenceError
from torchlocks.export.licences import KINDS, Kind, licences_of, read_licence
from torchlocks.lockfile.formats import read_lock

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("text", "expression", "kind"),
    [
        ("MIT", "MIT", "permissive"),
        ("MIT and PSF-2.0", "MIT AND PSF-2.0", "permissive"),
        ("GPL-3.0-only", "GPL-3.0-only", "copyleft"),
        ("LGPL-2.1-or-later", "LGPL-2.1-or-later", "weak-copyleft"),
        ("MPL-2.0", "MPL-2.0", "weak-copyleft"),
        ("AGPL-3.0-only", "AGPL-3.0-only", "copyleft"),
        # An exception changes what its licence asks for.
        ("GPL-3.0-only WITH GCC-exception-3.1", "GPL-3.0-only WITH GCC-exception-3.1", "weak-copyleft"),
        ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception", "permissive"),
        # Of a choice the one that asks least counts, of several together the strictest.
        ("GPL-2.0-only OR FTL", "GPL-2.0-only OR FTL", "permissive"),
        ("MIT AND (LGPL-2.1-only OR GPL-2.0-only)", "MIT AND (LGPL-2.1-only OR GPL-2.0-only)", "weak-copyleft"),
        ("LicenseRef-NVIDIA-End-User-License-Agreement",) * 2 + ("proprietary",),
        ("LicenseRef-IntelSimplifiedSoftwareOct2022",) * 2 + ("proprietary",),
        ("MIT AND LicenseRef-cuDNN-Software-License-Agreement",) * 2 + ("proprietary",),
        ("LicenseRef-Public-Domain",) * 2 + ("permissive",),
        ("LicenseRef-Something-Of-Somebody",) * 2 + ("unknown",),
        # What is no expression keeps its words, and is sorted by them only as far as they go.
        ("BSD 3-Clause", None, "permissive"),
        ("GPL3+, partial:GCCRLE, partial:LGPL2+", None, "copyleft"),
        ("LGPL3", None, "weak-copyleft"),
        ("Custom", None, "unknown"),
        ("NVIDIA proprietary software", None, "proprietary"),
        ("()", None, "unknown"),
    ],
)
def test_what_a_licence_is(text: str, expression: str | None, kind: Kind) -> None:
    found = read_licence(text)
    assert (found.text, found.expression, found.kind) == (text, expression, kind)


@pytest.mark.parametrize("text", [None, "", "  "])
def test_no_licence_is_unknown_and_not_none_needed(text: str | None) -> None:
    assert read_licence(text).kind == "unknown"
    assert read_licence(text).text is None


WORDS = ["MIT", "AND", "OR", "WITH", "(", ")", "GPL-3.0-only", "GCC-exception-3.1", "LicenseRef-x", ",", "+", "\0"]


@given(st.one_of(st.text(), st.lists(st.sampled_from(WORDS)).map(" ".join)))
def test_any_text_has_a_kind(text: str) -> None:
    found = read_licence(text)
    assert found.kind in KINDS
    if found.expression is not None:
        # What is called an expression is one: it reads as itself.
        assert read_licence(found.expression).expression == found.expression


def test_the_committed_locks_hold_what_people_must_know_of() -> None:
    lock = read_lock(ROOT / "locks" / "gpu-cu129" / "pixi.lock")
    kinds = {each.package.name: each.licence.kind for each in licences_of(lock.packages["linux-64"])}
    assert {name for name, kind in kinds.items() if kind == "proprietary"} >= {"libcudnn", "libcublas", "mkl"}
    assert kinds["readline"] == "copyleft"
    assert kinds["libgcc"] == "weak-copyleft"
    assert kinds["pytorch"] == kinds["numpy"] == "permissive"


def test_the_report_fails_on_what_was_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    where = ["cpu", "--platform", "linux-aarch64"]
    run = CliRunner().invoke(licences, where)
    assert run.exit_code == 0, run.output
    assert "copyleft: 2 packages" in run.output
    assert "proprietary" not in run.output
    found = json.loads(CliRunner().invoke(licences, [*where, "--json"]).output)
    assert {each["kind"] for each in found["packages"] if each["name"] in ("readline", "libgcc")} == {
        "copyleft",
        "weak-copyleft",
    }
    assert CliRunner().invoke(licences, [*where, "--fail-on", "proprietary"]).exit_code == 0
    failed = CliRunner().invoke(licences, [*where, "--fail-on", "proprietary", "--fail-on", "copyleft"])
    assert isinstance(failed.exception, LicenceError)
    assert "readline" in failed.exception.what


def test_a_format_without_licences_is_named_once(tmp_path: Path) -> None:
    lock = tmp_path / "conda-lock.yml"
    lock.write_bytes((ROOT / "locks" / "cpu" / "conda-lock.yml").read_bytes())
    told = CliRunner().invoke(licences, [str(lock), "--platform", "linux-64"])
    assert told.exit_code == 0
    assert "has no licences" in told.stderr
    assert "numpy" not in told.stdout
    failed = CliRunner().invoke(licences, [str(lock), "--platform", "linux-64", "--fail-on", "unknown"])
    assert isinstance(failed.exception, LicenceError)


def test_packages_of_pip_are_reported_and_unknown(tmp_path: Path) -> None:
    """Locks from elsewhere may have some, and no lock records their licences."""
    entry = (
        "- {name: requests, version: 2.32.3, manager: pip, platform: linux-64, dependencies: {}, category: main,\n"
        f"  url: 'https://files.example.org/requests-2.32.3.whl', hash: {{sha256: {'2' * 64}}}, optional: false}}\n"
    )
    lock = tmp_path / "conda-lock.yml"
    lock.write_text((ROOT / "locks" / "cpu" / "conda-lock.yml").read_text() + entry)
    (tmp_path / "pixi.lock").write_bytes((ROOT / "locks" / "cpu" / "pixi.lock").read_bytes())
    where = [str(lock), "--platform", "linux-64"]
    told = CliRunner().invoke(licences, [*where, "--json"])
    assert json.loads(told.stdout)["pip"] == ["requests==2.32.3"]
    assert "left to pip" in told.stderr
    failed = CliRunner().invoke(licences, [*where, "--fail-on", "unknown"])
    assert isinstance(failed.exception, LicenceError)
    assert "requests==2.32.3" in failed.exception.what
