"""Errors as a list of all the ways to fail: scripts tell them apart by exit code."""

from __future__ import annotations

import errno
import json
import sys

import pytest

import torchlocks.cli.commands.root
import torchlocks.core.errors
from torchlocks.cli.main import main
from torchlocks.core.errors import ChannelUnreachableError, DiskFullError, SolveError, TorchlocksError, grouped


def test_every_kind_of_failure_has_an_exit_code_of_its_own() -> None:
    kinds = [
        kind
        for kind in vars(torchlocks.core.errors).values()
        if isinstance(kind, type) and issubclass(kind, TorchlocksError) and kind is not TorchlocksError
    ]
    codes = {kind.exit_code: kind.__name__ for kind in kinds}
    assert len(codes) == len(kinds) >= 20
    # 0 is success; 1 and 2 are those of Python and click.
    assert not codes.keys() & {0, 1, 2}
    assert all(kind.__doc__ for kind in kinds)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "envs/cpu"), 1, "where: envs/cpu"),
        (OSError(errno.EROFS, "Read-only file system", "locks/a", None, "locks/b"), 1, "where: locks/b"),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError.exit_code, "make room"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 70, "this is a bug"),
        (ValueError("x"), 70, "this is a bug"),
    ],
)
def test_what_the_system_refuses_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int, said: str
) -> None:
    def fails(verbs: object) -> None:
        raise error

    monkeypatch.setattr(torchlocks.cli.commands.root, "root", fails)
    monkeypatch.setattr(sys, "argv", ["torchlocks", "matrix"])
    monkeypatch.setattr("torchlocks.core.process_exit.exit_process", sys.exit)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert said in capsys.readouterr().err


def test_an_error_survives_the_way_to_another_process() -> None:
    error = DiskFullError("The disk is full.", where="/somewhere", fix="make room", details="a log")
    back = TorchlocksError.from_data(json.loads(json.dumps(error.as_data())), TorchlocksError)
    assert (type(back), str(back)) == (DiskFullError, str(error))


@pytest.mark.parametrize("name", ["str", "ClassVar", "TorchlocksError.from_data", "", None, 7, "NoSuchError"])
def test_what_is_no_error_of_ours_becomes_the_one_asked_for(name: object) -> None:
    back = TorchlocksError.from_data({"exception_name": name, "message": "conda failed", "fix": 3}, DiskFullError)
    assert (type(back), back.what, back.fix) == (DiskFullError, "conda failed", None)


def test_errors_that_differ_in_their_place_alone_are_one() -> None:
    places = [f"cpu on {name}: error sending request" for name in ("linux-64", "osx-64", "win-64")]
    same = [ChannelUnreachableError("It cannot be read.", where=place, fix="check") for place in places]
    other = SolveError("No solution.", where="gpu on linux-64")
    first, second = grouped([*same, other])
    assert second is other
    assert isinstance(first, ChannelUnreachableError)
    assert str(first.where) == f"{places[0]}; the same for 2 more: cpu on osx-64, cpu on win-64"
    assert grouped([]) == []
