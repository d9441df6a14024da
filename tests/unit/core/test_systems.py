"""What differs between systems, held against what was recorded of each; all of it runs anywhere."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType

import pytest

from torchlocks.core import systems, urls
from torchlocks.core.errors import BusyError, InstallError
from torchlocks.core.systems import linux, macos, windows
from torchlocks.core.systems.model import System
from torchlocks.install import installer
from torchlocks.install.activate import python_of
from torchlocks.install.contained import site_packages
from torchlocks.solve.repodata import RecordSource

SYSTEMS = (linux, macos, windows)


def members() -> list[str]:
    return sorted(name for name in vars(System) if not name.startswith("_"))


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.__name__.rpartition(".")[2])
def test_every_system_has_everything(system: ModuleType) -> None:
    assert [name for name in members() if not hasattr(system, name)] == []


def test_a_platform_has_a_system() -> None:
    assert [systems.of(name) for name in ("linux-64", "osx-arm64", "win-64", "emscripten-wasm32")] == [
        *(linux, macos, windows),
        linux,
    ]
    assert systems.here is {"win32": windows, "darwin": macos}.get(sys.platform, linux)


# As `Path(…).as_uri()` of Python on Windows, file managers, conda, and people write them.
@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///C:/Users/a%20b/channel", r"C:\Users\a b\channel"),
        ("file:///c:/channel/", "c:\\channel"),
        ("file:///C|/channel", r"C:\channel"),
        ("file://C:/channel", r"C:\channel"),
        ("file://localhost/C:/channel", r"C:\channel"),
        ("file://server/share/channel", r"\\server\share\channel"),
        ("file:////server/share/channel", r"\\server\share\channel"),
        ("file:///C:/%C3%BCber/x", r"C:\über\x"),
        ("file:///C:", "C:\\"),
        ("file:///channel", r"\channel"),
    ],
)
def test_a_file_url_has_a_drive_on_windows(url: str, path: str) -> None:
    assert windows.url_path(url) == path
    if path[1] == ":":
        assert windows.url_path(PureWindowsPath(path).as_uri()) == path


@pytest.mark.parametrize("system", [linux, macos])
def test_a_file_url_is_a_path_elsewhere(system: ModuleType) -> None:
    for path in ("/srv/a b/channel", "/über", "/C:/x", "/a%2Fb", "/a#b?c"):
        assert system.url_path(PurePosixPath(path).as_uri()) == path


def test_channels_on_a_drive_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "here", windows)
    url = "file:///D:/build/channel"
    assert str(urls.file_path(url)) == str(RecordSource().folder(url)) == r"D:\build\channel"


def test_environments_are_laid_out_as_conda_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert site_packages({}, "3.12.4", "win-64") == "Lib/site-packages"
    assert site_packages({}, "3.12.4", "osx-64") == "lib/python3.12/site-packages"
    assert (windows.SCRIPTS, windows.program("torchlocks-conda")) == ("Scripts", "torchlocks-conda.exe")
    (tmp_path / "python.exe").touch()
    monkeypatch.setattr("torchlocks.install.activate.here", windows)
    assert python_of(tmp_path) == tmp_path / "python.exe"


def test_a_batch_file_takes_arguments_as_they_are() -> None:
    line = windows.command_line([r"C:\Program Files\Python\python.exe", "-c", "print('100%')", 'say "x"'])
    assert line == r'''"C:\Program Files\Python\python.exe" -c print('100%%') "say \"x\""'''
    assert windows.runner({"COMSPEC": r"C:\Windows\system32\cmd.exe"}) == [r"C:\Windows\system32\cmd.exe", "/D", "/C"]
    assert linux.command_line(["a b", "$x"]) == "'a b' '$x'"


def test_a_bare_environment_has_the_system_and_a_home() -> None:
    bare = windows.bare({"SYSTEMROOT": r"D:\Windows", "PATH": r"C:\evil"}, PureWindowsPath(r"C:\h"))
    assert bare == {"PATH": r"D:\Windows\System32;D:\Windows", "USERPROFILE": r"C:\h", "APPDATA": r"C:\h"}
    assert "evil" not in linux.bare({"PATH": "/evil"}, PurePosixPath("/h"))["PATH"]


def test_paths_are_as_long_as_the_system_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = r"C:\Users\somebody\projects\torch\envs\gpu-cu126"
    assert windows.too_long(prefix, 259 - len(prefix) - 1) is None
    assert "LongPathsEnabled" in (windows.too_long(prefix, 259 - len(prefix)) or "")
    monkeypatch.setattr(windows, "long_paths", lambda: True)
    assert windows.too_long(prefix, 5000) is None
    assert macos.too_long("/x", 1020) is None
    assert macos.too_long("/x", 1021) is not None
    assert linux.too_long("/x", 4093) is not None


@pytest.mark.skipif(sys.platform == "win32", reason="the limit of other systems")
def test_the_limits_are_those_of_this_system(tmp_path: Path) -> None:
    limit = os.pathconf(tmp_path, "PC_PATH_MAX")
    assert systems.here.too_long("/x", limit - 4) is None
    assert systems.here.too_long("/x", limit - 3) is not None


def recorded(number: int, winerror: int) -> OSError:
    """An error as Windows raises it; elsewhere Python leaves `winerror` out."""
    error = OSError(number, "recorded")
    error.winerror = winerror  # type: ignore[attr-defined]
    return error


def test_files_that_a_program_has_open_are_distinguished_from_others() -> None:
    # Renaming a folder in which a program runs; removing a file that is open, or mapped.
    assert all(windows.in_use(recorded(errno.EACCES, number)) for number in (5, 32, 33, 1224))
    assert not windows.in_use(recorded(errno.ENOENT, 2))
    assert linux.in_use(OSError(errno.ETXTBSY, "busy"))
    assert not linux.in_use(OSError(errno.EACCES, "no"))


def test_an_environment_in_use_is_busy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(installer, "here", windows)
    busy = installer.not_in_place(recorded(errno.EACCES, 32), tmp_path)
    assert isinstance(busy, BusyError)
    assert "close" in (busy.fix or "")
    assert isinstance(installer.not_in_place(recorded(errno.EROFS, 19), tmp_path), InstallError)


def test_folders_are_exchanged_or_not_at_all(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / folder.name).touch()
    assert windows.exchange(one, other) is False
    assert (one / "one").exists()
    if systems.here.exchange(one, other):
        assert (one / "other").exists()
        assert (other / "one").exists()
        with pytest.raises(OSError, match="other-than-that"):
            systems.here.exchange(one, tmp_path / "other-than-that")


def test_a_folder_is_linked_without_special_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "target").mkdir()
    systems.here.link_folder(tmp_path / "link", tmp_path / "target")
    assert (tmp_path / "link").samefile(tmp_path / "target")
    made: list[tuple[str, str]] = []
    junctions = ModuleType("_winapi")
    junctions.CreateJunction = lambda source, place: made.append((source, place))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "_winapi", junctions)
    windows.link_folder(tmp_path / "junction", tmp_path / "target")
    assert made == [(str(tmp_path / "target"), str(tmp_path / "junction"))]


def test_modules_of_other_systems_import_nothing_that_is_not_everywhere() -> None:
    code = "import sys; sys.modules['ctypes.wintypes'] = sys.modules['winreg'] = sys.modules['_winapi'] = None;"
    subprocess.run([sys.executable, "-c", f"{code} import torchlocks.core.systems"], check=True)
