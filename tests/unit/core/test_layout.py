"""Where torchlocks finds the committed files, and where it makes things."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import torchlocks.core.layout
from torchlocks.core.errors import MissingFileError, NotACheckoutError
from torchlocks.core.layout import Layout, as_typed_here, find_layout, note_the_caller


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHLOCKS_ROOT", "TORCHLOCKS_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "checkout" / "deep" / "inside").mkdir(parents=True)
    for name in ("matrix.yml", "environment-cpu.yml"):
        (tmp_path / "checkout" / name).touch()
    return tmp_path / "checkout"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed wheel's files, as torchlocks would find them."""
    data = tmp_path / "site-packages" / "torchlocks" / "_data"
    data.mkdir(parents=True)
    (data / "matrix.yml").touch()
    monkeypatch.setattr(torchlocks.core.layout, "PACKAGED", data)
    return data


def test_a_checkout_holds_both_what_is_committed_and_what_is_made(checkout: Path) -> None:
    layout = find_layout(checkout / "deep" / "inside")
    assert layout == Layout(checkout)
    assert layout.made == checkout
    assert layout.prefix("cpu") == checkout / "envs" / "cpu"
    assert not layout.packaged
    layout.require_checkout("lock")


def test_what_is_made_can_be_elsewhere(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHLOCKS_HOME", str(tmp_path / "home"))
    layout = find_layout(checkout)
    assert layout.locks == checkout / "locks"
    for made in (layout.envs, layout.build, layout.channel, layout.local_locks, layout.reports):
        assert made.is_relative_to(tmp_path / "home")


def test_a_wheel_stands_in_where_there_is_no_checkout(packaged: Path, checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    layout = find_layout(tmp_path / "empty")
    assert (layout.root, layout.made, layout.packaged) == (packaged, tmp_path / "empty", True)
    with pytest.raises(NotACheckoutError, match=r"`update` works on the files of a checkout"):
        layout.require_checkout("update")
    assert find_layout(checkout).root == checkout


def test_another_projects_matrix_is_no_checkout(packaged: Path, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "matrix.yml").write_text("jobs: []\n")
    assert find_layout(tmp_path / "project").packaged


def test_a_root_that_is_named_and_none_is_not_passed_over(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHLOCKS_ROOT", str(tmp_path))
    with pytest.raises(MissingFileError, match="not a torchlocks checkout"):
        find_layout(tmp_path)


def test_without_checkout_and_wheel_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="not a torchlocks checkout"):
        find_layout(tmp_path)


@pytest.mark.parametrize(
    ("told", "typed"),
    [
        ("build it: make env-cpu", "build it: torchlocks env cpu"),
        ("(make env-gpu CUDA=…, or not)", "(torchlocks env gpu --cuda …, or not)"),
        ("make env-gpu CUDA=12.6 CHANNEL=local builds", "torchlocks env gpu --cuda 12.6 --channel local builds"),
        ("make env-cpu OFFLINE=1\nor", "torchlocks env cpu --offline\nor"),
        (
            "make bundle ENV=gpu-cu126 there, make bundle FILE=… here",
            "torchlocks bundle gpu-cu126 there, torchlocks bundle --unpack … here",
        ),
        ("or: make fsck ENV=cpu", "or: torchlocks fsck cpu"),
        ("make env-vars and make peace", "make env-vars and make peace"),
        ("make why PKG=cudnn ENV=gpu-cu118", "torchlocks why cudnn --env gpu-cu118"),
        ("check the proxy; MIRROR=URL names a mirror", "check the proxy; --mirror URL names a mirror"),
        ("build it: CHANNEL=local (or auto)", "build it: --channel local (or auto)"),
        ("CONDA_OVERRIDE_CUDA= make env-gpu CUDA=13.1", "CONDA_OVERRIDE_CUDA= torchlocks env gpu --cuda 13.1"),
        ("PIP_EXTRA_INDEX_URL=https://a/b?CUDA=1", "PIP_EXTRA_INDEX_URL=https://a/b?CUDA=1"),
    ],
)
def test_make_is_named_to_those_who_call_it_and_options_to_others(
    monkeypatch: pytest.MonkeyPatch, told: str, typed: str
) -> None:
    monkeypatch.delenv("TORCHLOCKS_MAKE", raising=False)
    note_the_caller()
    assert as_typed_here(told) == typed
    monkeypatch.setenv("TORCHLOCKS_MAKE", "1")
    note_the_caller()
    # A shell in an environment is not make.
    assert "TORCHLOCKS_MAKE" not in os.environ
    assert as_typed_here(told) == told
    note_the_caller()
