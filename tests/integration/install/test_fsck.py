"""Damaged environments: everything that was changed is found, named, and can be put back."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from client_records import CLIENTS, as_made_by
from conftest import LAYOUT
from tiny_channel import PLATFORM, TinyChannel, make_channel
from torchlocks.core.errors import FetchError, InstallError, MissingFileError
from torchlocks.core.progress import Silent
from torchlocks.install.fetch_options import FetchOptions
from torchlocks.install.findings import Findings
from torchlocks.install.fsck import fsck
from torchlocks.install.installer import InstallOptions, install_environment
from torchlocks.install.provenance import Origin, is_current

SITE = "lib/python3.11/site-packages"


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> TinyChannel:
    made = make_channel(tmp_path_factory.mktemp("fsck") / "channel")
    made.raw("pytorch", {f"{SITE}/torch/__init__.py": "__version__ = '2'\n"}, depends=["python 3.11.*"])
    return made


@pytest.fixture
def options(tmp_path: Path) -> FetchOptions:
    return FetchOptions(cache=tmp_path / "pkgs")


@pytest.fixture
def prefix(channel: TinyChannel, tmp_path: Path, options: FetchOptions, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("PYTHONNOUSERSITE", raising=False)
    monkeypatch.delenv("PYTHONUSERBASE", raising=False)
    made = tmp_path / "envs" / "tiny"
    install_environment(
        channel.lock(),
        PLATFORM,
        made,
        provenance=Origin(name="tiny", channel="local"),
        options=InstallOptions(fetch=options),
        progress=Silent(),
    )
    return made


def look(prefix: Path) -> Findings:
    return fsck(prefix, progress=Silent())


def overwrite(path: Path, content: bytes) -> None:
    """Write a file of its own in the place of `path`, so that the cache's copy stays as it is."""
    path.unlink()
    path.write_bytes(content)


def test_an_untouched_environment_is_right(prefix: Path) -> None:
    found = look(prefix)
    assert found.ok
    assert found.checked > 200
    assert (found.damaged, found.extra, found.pip, found.shadows) == ((), (), (), ())


@pytest.mark.parametrize("path", ["share/many/7.txt", "bin/alpha", "lib/libtiny.so", f"{SITE}/beta/__init__.py"])
@pytest.mark.parametrize("how", ["changed", "cut short", "missing", "a folder", "a link"])
def test_a_file_that_is_not_as_installed_is_named_with_its_package_and_put_back(
    prefix: Path, options: FetchOptions, path: str, how: str
) -> None:
    file = prefix / path
    before = file.read_bytes()
    if how == "changed":
        overwrite(file, before[:-1] + bytes([before[-1] ^ 1]))
    elif how == "cut short":
        overwrite(file, before[:-1])
    else:
        file.unlink()
        if how == "a folder":
            file.mkdir()
        elif how == "a link":
            file.symlink_to("/dev/null")
    found = look(prefix)
    assert not found.ok
    assert [each.path for each in found.damaged] == [path]
    package = {"many": "many-1.0-0", "alpha": "alpha-1.0-0", "libtiny.so": "python-3.11.7-0", "beta": "beta-1.0-0"}
    assert found.damaged[0].package == next(name for part, name in package.items() if part in path)
    assert found.damaged[0].kind == ("missing" if how == "missing" else "changed")

    fixed = fsck(prefix, fix=True, options=options, progress=Silent())
    assert fixed.ok
    assert fixed.repaired == (path,)
    assert file.read_bytes() == before
    assert os.access(file, os.X_OK) == path.startswith("bin/")
    assert {each.name for each in prefix.parent.iterdir()} == {"tiny", ".tiny.lock"}


def test_a_link_that_points_elsewhere_is_found_and_put_back(prefix: Path, options: FetchOptions) -> None:
    link = prefix / "bin" / "python"
    link.unlink()
    link.symlink_to("alpha")
    assert [each.why for each in look(prefix).damaged] == ["it is a link to 'alpha'"]
    assert fsck(prefix, fix=True, options=options, progress=Silent()).ok
    assert str(link.readlink()) == "python3.11"


@pytest.mark.parametrize("round", range(10))
def test_every_flipped_bit_is_found(prefix: Path, round: int) -> None:
    dice = random.Random(round)
    files = [each for each in sorted(prefix.rglob("*")) if each.is_file() and not each.is_symlink()]
    victim = dice.choice([each for each in files if "conda-meta" not in each.parts and each.name != "CACHEDIR.TAG"])
    content = bytearray(victim.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    overwrite(victim, bytes(content))
    assert [each.path for each in look(prefix).damaged] == [victim.relative_to(prefix).as_posix()]


def test_a_damaged_file_that_is_damaged_in_the_cache_too_is_fetched_again(prefix: Path, options: FetchOptions) -> None:
    file = prefix / "share" / "many" / "7.txt"
    with file.open("r+") as both:
        both.write("edited in place, through the hard link")
    assert fsck(prefix, fix=True, options=options, progress=Silent()).ok
    assert file.read_text() == "7 " * 300


def test_what_cannot_be_fetched_is_not_repaired_and_stays_as_it_was(
    prefix: Path, options: FetchOptions, tmp_path: Path
) -> None:
    overwrite(prefix / "share" / "many" / "7.txt", b"changed")
    nothing = replace(options, cache=tmp_path / "empty", offline=True)
    with pytest.raises(FetchError, match="not in the package cache"):
        fsck(prefix, fix=True, options=nothing, progress=Silent())
    assert (prefix / "share" / "many" / "7.txt").read_bytes() == b"changed"


def test_two_packages_with_the_same_path_are_no_damage(tmp_path: Path, options: FetchOptions) -> None:
    channel = TinyChannel(tmp_path / "channel")
    channel.raw("one", {"share/both.txt": "one", "share/one.txt": "one"})
    channel.raw("two", {"share/both.txt": "from two"}, depends=["one"])
    prefix = tmp_path / "envs" / "clobbered"
    install_environment(
        channel.lock(),
        PLATFORM,
        prefix,
        provenance=Origin(name="clobbered", channel="local"),
        options=InstallOptions(fetch=options),
        progress=Silent(),
    )
    found = look(prefix)
    assert found.ok, found
    assert found.extra == ()


def test_extra_files_are_listed_and_bytecode_is_not(prefix: Path) -> None:
    (prefix / "share" / "mine.txt").write_text("mine")
    cache = prefix / SITE / "beta" / "__pycache__"
    cache.mkdir()
    (cache / "__init__.cpython-311.pyc").write_bytes(b"")
    found = look(prefix)
    assert found.extra == ("share/mine.txt",)
    assert found.ok


def wheel(prefix: Path, name: str, version: str) -> None:
    """As pip leaves a wheel: a module, its metadata, and the list of both."""
    module = prefix / SITE / name / "__init__.py"
    module.parent.mkdir(exist_ok=True)
    if module.exists():
        module.unlink()
    module.write_text(f"__version__ = {version!r}\n")
    info = prefix / SITE / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\n")
    (info / "RECORD").write_text(f"{name}/__init__.py,,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n")


def test_what_pip_installed_is_distinguished(prefix: Path) -> None:
    wheel(prefix, "some_tool", "1.5")
    found = look(prefix)
    assert [(each.name, each.version, each.files) for each in found.pip] == [("some-tool", "1.5", 3)]
    assert found.extra == ()
    assert found.ok


def test_a_torch_that_pip_put_over_the_environments_is_found(prefix: Path, options: FetchOptions) -> None:
    wheel(prefix, "torch", "9.9")
    (prefix / SITE / "torch" / "extra.py").write_text("")
    found = look(prefix)
    assert not found.ok
    assert [each.path for each in found.damaged] == [f"{SITE}/torch/__init__.py"]
    assert [each.name for each in found.pip] == ["torch"]
    assert any("torch/extra.py" in line for line in found.shadows)
    fixed = fsck(prefix, fix=True, options=options, progress=Silent())
    assert fixed.repaired == (f"{SITE}/torch/__init__.py",)
    # What was added is the user's: it is said, and stays.
    assert not fixed.ok
    assert (prefix / SITE / "torch" / "extra.py").exists()


@pytest.mark.parametrize("name", ["torch.py", "sitecustomize.py", "usercustomize.py"])
def test_a_module_that_gets_in_front_is_found(prefix: Path, name: str) -> None:
    (prefix / SITE / name).write_text("")
    found = look(prefix)
    assert len(found.shadows) == 1
    assert name in found.shadows[0]


def test_a_torch_outside_that_python_finds_first_is_found(
    prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = tmp_path / "home" / ".local" / SITE / "torch"
    user.mkdir(parents=True)
    assert any(str(user.parent) in line for line in look(prefix).shadows)
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    assert look(prefix).ok
    (tmp_path / "path" / "torch").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    assert any(str(tmp_path / "path") in line for line in look(prefix).shadows)


def flip_inside_text(path: Path) -> None:
    """Change one letter of a value in a JSON file, so that it stays JSON."""
    text = path.read_text()
    at = text.index('"many"') + 1 if '"many"' in text else text.rindex("a")
    path.write_text(text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :])
    json.loads(path.read_text())


@pytest.mark.parametrize("how", ["cut short", "a flip that stays JSON", "its hashes", "missing"])
def test_a_damaged_record_is_found_and_written_anew(prefix: Path, options: FetchOptions, how: str) -> None:
    record = prefix / "conda-meta" / "many-1.0-0.json"
    before = json.loads(record.read_text())
    if how == "cut short":
        record.write_text("{")
    elif how == "a flip that stays JSON":
        flip_inside_text(record)
    elif how == "its hashes":
        # Both the record and the file say the same wrong thing: only the record's own hash tells.
        file = prefix / "share" / "many" / "7.txt"
        overwrite(file, b"changed")
        content = json.loads(record.read_text())
        entry = next(each for each in content["paths_data"]["paths"] if each["_path"] == "share/many/7.txt")
        entry |= {"sha256": hashlib.sha256(b"changed").hexdigest(), "size_in_bytes": 7}
        record.write_text(json.dumps(content))
    else:
        record.unlink()
    assert "conda-meta/many-1.0-0.json" in [each.path for each in look(prefix).damaged]
    assert not look(prefix).ok

    found = fsck(prefix, fix=True, options=options, progress=Silent())
    assert found.ok
    assert "conda-meta/many-1.0-0.json" in found.repaired
    assert json.loads(record.read_text()) == before
    assert (prefix / "share" / "many" / "7.txt").read_text() == "7 " * 300
    assert look(prefix).ok


def test_a_damaged_record_of_another_tools_environment_is_left_to_that_tool(
    prefix: Path, options: FetchOptions
) -> None:
    for name in ("torchlocks", "torchlocks-files"):
        (prefix / "conda-meta" / name).unlink()
    (prefix / "conda-meta" / "many-1.0-0.json").write_text("{")
    assert [each.path for each in look(prefix).damaged] == ["conda-meta/many-1.0-0.json"]
    with pytest.raises(InstallError, match="cannot be repaired"):
        fsck(prefix, fix=True, options=options, progress=Silent())


@pytest.mark.parametrize("text", ["{}", '{"name": 1, "version": 2, "build": 3, "url": 4}', '{"name": "many"}'])
def test_a_record_without_a_package_is_an_error_of_the_repair(prefix: Path, options: FetchOptions, text: str) -> None:
    for name in ("torchlocks", "torchlocks-files"):
        (prefix / "conda-meta" / name).unlink()
    (prefix / "conda-meta" / "many-1.0-0.json").write_text(text)
    overwrite(prefix / "bin" / "alpha", b"x")
    with pytest.raises(InstallError, match="cannot be re"):
        fsck(prefix, fix=True, options=options, progress=Silent())


@pytest.mark.parametrize("name", ["torchlocks", "torchlocks-files"])
@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_a_damaged_record_of_the_environment_itself_is_found(
    prefix: Path, options: FetchOptions, name: str, how: str
) -> None:
    if how == "flipped":
        flip_inside_text(prefix / "conda-meta" / name)
    else:
        (prefix / "conda-meta" / name).unlink()
    assert [each.path for each in look(prefix).damaged] == [f"conda-meta/{name}"]
    with pytest.raises(InstallError, match="install the environment again"):
        fsck(prefix, fix=True, options=options, progress=Silent())


def test_every_flipped_bit_of_conda_meta_is_found(prefix: Path) -> None:
    dice = random.Random(15)
    files = sorted(each for each in (prefix / "conda-meta").iterdir() if each.is_file())
    for _ in range(60):
        victim = dice.choice(files)
        before = victim.read_bytes()
        content = bytearray(before)
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        victim.write_bytes(content)
        assert f"conda-meta/{victim.name}" in [each.path for each in look(prefix).damaged]
        victim.write_bytes(before)
    assert look(prefix).ok


def test_the_history_may_grow_and_its_beginning_is_repaired(prefix: Path, options: FetchOptions) -> None:
    history = prefix / "conda-meta" / "history"
    before = history.read_text()
    later = "==> 2026-01-01 00:00:00 <==\n# cmd: conda install x\n"
    history.write_text(before + later)
    assert look(prefix).ok
    history.write_text(before.replace("tiny", "tinx") + later)
    assert [each.path for each in look(prefix).damaged] == ["conda-meta/history"]
    assert fsck(prefix, fix=True, options=options, progress=Silent()).ok
    assert history.read_text() == before + later


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
@pytest.mark.parametrize(
    ("path", "mode"),
    [("bin/alpha", 0o644), ("share/many/7.txt", 0o666), ("lib/libtiny.so", 0o4755), ("share/many", 0o777)],
)
def test_a_changed_mode_is_found_and_set_again(prefix: Path, options: FetchOptions, path: str, mode: int) -> None:
    file = prefix / path
    before = file.stat().st_mode
    file.chmod(mode)
    assert [(each.path, each.kind) for each in look(prefix).damaged] == [(path, "changed")]
    # Nothing has to be fetched for it.
    nothing = replace(options, cache=prefix.parent / "empty", offline=True)
    found = fsck(prefix, fix=True, options=nothing, progress=Silent())
    assert (found.ok, found.repaired) == (True, (path,))
    assert file.stat().st_mode == before


def test_modes_contents_and_records_are_repaired_together(prefix: Path, options: FetchOptions) -> None:
    (prefix / "bin" / "alpha").chmod(0o600)
    overwrite(prefix / "share" / "many" / "7.txt", b"changed")
    flip_inside_text(prefix / "conda-meta" / "many-1.0-0.json")
    found = fsck(prefix, fix=True, options=options, progress=Silent())
    assert found.ok
    assert set(found.repaired) == {"bin/alpha", "share/many/7.txt", "conda-meta/many-1.0-0.json"}


@pytest.mark.parametrize("outside", ["../victim", "share/../../victim", "/victim"])
def test_a_record_that_names_a_file_outside_is_refused_and_changes_nothing(
    prefix: Path, options: FetchOptions, outside: str
) -> None:
    victim = prefix.parent / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    for name in ("torchlocks", "torchlocks-files"):
        (prefix / "conda-meta" / name).unlink()
    record = prefix / "conda-meta" / "many-1.0-0.json"
    content = json.loads(record.read_text())
    content["paths_data"]["paths"].append({"_path": str(victim) if outside == "/victim" else outside})
    record.write_text(json.dumps(content))
    assert [each.path for each in look(prefix).damaged] == ["conda-meta/many-1.0-0.json"]
    with pytest.raises(InstallError):
        fsck(prefix, fix=True, options=options, progress=Silent())
    assert (victim / "file").read_text() == "mine"


def test_a_repair_does_not_write_through_a_link_out_of_the_environment(prefix: Path, options: FetchOptions) -> None:
    victim = prefix.parent / "victim"
    (prefix / "share" / "many").rename(victim)
    (prefix / "share" / "many").symlink_to(victim)
    overwrite(victim / "7.txt", b"mine")
    with pytest.raises(InstallError, match="outside of the environment"):
        fsck(prefix, fix=True, options=options, progress=Silent())
    assert (victim / "7.txt").read_bytes() == b"mine"


@pytest.mark.parametrize("client", CLIENTS)
def test_an_environment_of_any_client_is_right_and_its_damage_is_found(prefix: Path, client: str) -> None:
    as_made_by(client, prefix)
    found = look(prefix)
    assert (found.damaged, found.extra, found.shadows) == ((), (), ())
    changed = ("bin/alpha", "share/many/7.txt", f"{SITE}/beta/__init__.py")
    for path in changed:
        overwrite(prefix / path, (prefix / path).read_bytes()[:-1] + b"?")
    assert {each.path for each in look(prefix).damaged} == set(changed)


def test_the_suite_reads_the_records_of_any_client(prefix: Path) -> None:
    """The suite compares the sizes of files with their records; it runs inside of environments, without torchlocks."""
    sys.path.insert(0, str(LAYOUT.suite))
    try:
        module = importlib.import_module("torchsuite.prefix")
    finally:
        sys.path.remove(str(LAYOUT.suite))
    original = {path: path.read_bytes() for path in (prefix / "conda-meta").iterdir() if path.is_file()}
    for client in CLIENTS:
        as_made_by(client, prefix)
        read = module.Prefix(prefix)
        files = [file for record in read.records for file in record.files if not file.path.endswith(".pyc")]
        assert [file.path for file in files if not os.path.lexists(prefix / file.path)] == [], client
        wrong = [f.path for f in files if f.size is not None and (prefix / f.path).stat().st_size != f.size]
        assert wrong == [], client
        assert f"{SITE}/beta/__init__.py" in read.owners, client
        for path, content in original.items():
            path.write_bytes(content)


def test_a_package_that_another_tool_replaced_is_that_tools(prefix: Path) -> None:
    meta = prefix / "conda-meta"
    content = json.loads((meta / "many-1.0-0.json").read_text()) | {"version": "2.0"}
    (meta / "many-2.0-0.json").write_text(json.dumps(content))
    (meta / "many-1.0-0.json").unlink()
    assert look(prefix).ok


def test_a_repair_leaves_the_provenance_unchanged(channel: TinyChannel, prefix: Path, options: FetchOptions) -> None:
    (prefix / "share" / "many" / "7.txt").unlink()
    assert fsck(prefix, fix=True, options=options, progress=Silent()).ok
    assert is_current(prefix, channel.lock().sha256, PLATFORM)


def test_a_folder_that_is_no_environment_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no conda environment"):
        look(tmp_path)
