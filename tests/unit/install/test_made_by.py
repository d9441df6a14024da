"""The client that installed an environment is known by what it leaves there."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchlocks.install.made_by import client_of


@pytest.mark.parametrize(
    ("command", "client"),
    [
        ("/opt/conda/bin/conda create -p /x --file y", "conda"),
        ("C:\\Miniforge3\\Scripts\\conda-script.py create -p x", "conda"),
        ("/opt/conda/bin/mamba create -p /x --file y", "mamba"),
        ("micromamba create -p /x -f y", "micromamba"),
        ("/home/me/tool create -p /x", "unknown"),
    ],
)
def test_the_command_in_the_history(tmp_path: Path, command: str, client: str) -> None:
    (tmp_path / "conda-meta").mkdir()
    text = f"==> 2026-11-20 12:00:00 <==\n# cmd: {command}\n# conda version: 26.7.0\n"
    (tmp_path / "conda-meta" / "history").write_text(text, encoding="utf-8")
    assert client_of(tmp_path) == client


def test_without_a_history(tmp_path: Path) -> None:
    (tmp_path / "conda-meta").mkdir()
    assert client_of(tmp_path) == "unknown"
    (tmp_path / "conda-meta" / "pixi").write_text("{}")
    assert client_of(tmp_path) == "pixi"
