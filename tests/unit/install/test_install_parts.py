"""The parts of installing that need neither packages nor a network."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlocks.core.disk import is_disk_full
from torchlocks.core.errors import DiskFullError, InstallError, IntegrityError, TorchlocksError
from torchlocks.core.package_cache import cache_folder
from torchlocks.core.progress import Silent
from torchlocks.core.urls import credential_variables, expand_credentials, mask, strip_credentials
from torchlocks.install import swap
from torchlocks.install.fetch_options import require_hashes
from torchlocks.install.fetch_run import candidates
from torchlocks.install.installer import warn_of_space
from torchlocks.install.provenance import (
    RECORD,
    Provenance,
    is_current,
    mark_verified,
    read_provenance,
    record_names,
    write_provenance,
)
from torchlocks.lockfile.models import LockedPackage

URL = "https://conda.anaconda.org/conda-forge/linux-64/numpy-2.3.0-py311_0.conda"
WORD = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~", min_size=8, max_size=40)


def environment(folder: Path, **changed: object) -> Provenance:
    """Make `folder` look like an installed environment; `changed` replaces what it says of itself."""
    (folder / "conda-meta").mkdir(parents=True)
    (folder / "conda-meta" / "numpy-2.3.0-py311_0.json").write_text("{}")
    (folder / "conda-meta" / "history").write_text("")
    values: dict[str, object] = {
        "install_id": "0123abcd",
        "prefix": str(folder),
        "name": "cpu",
        "lock_sha256": "a" * 64,
        "lock_kind": "conda-lock",
        "lock_name": "conda-lock.yml",
        "platform": "linux-64",
        "channel": "auto",
        "channels_used": ("https://conda.anaconda.org/conda-forge",),
        "records": ("numpy-2.3.0-py311_0",),
        "installed_at": "2026-08-01T00:00:00+00:00",
    }
    made = Provenance(**(values | changed))  # type: ignore[arg-type]
    write_provenance(folder, made)
    return made


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    made = environment(tmp_path / "cpu", tools={"py-rattler": "0.28.0"}, inputs={"a": "x"})
    assert read_provenance(tmp_path / "cpu") == made
    assert record_names(tmp_path / "cpu") == ("numpy-2.3.0-py311_0",)


def test_the_record_is_not_taken_for_a_package() -> None:
    # conda, mamba and rattler read every conda-meta/*.json as a package and fail on one that is not.
    assert RECORD.suffix == ""


@given(
    content=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["schema", "records", "prefix"]) | st.text(), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_a_damaged_record_is_no_record(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    prefix = tmp_path_factory.mktemp("damaged")
    (prefix / "conda-meta").mkdir()
    (prefix / RECORD).write_bytes(content)
    assert read_provenance(prefix) is None
    assert not is_current(prefix, "a" * 64, "linux-64")


@pytest.mark.parametrize("missing", ["install_id", "records", "lock_sha256", "channels_used"])
def test_an_incomplete_record_is_no_record(tmp_path: Path, missing: str) -> None:
    environment(tmp_path / "cpu")
    path = tmp_path / "cpu" / RECORD
    content = json.loads(path.read_text())
    del content[missing]
    path.write_text(json.dumps(content))
    assert read_provenance(tmp_path / "cpu") is None


def test_a_record_of_a_later_version_with_more_in_it_can_be_read(tmp_path: Path) -> None:
    made = environment(tmp_path / "cpu")
    path = tmp_path / "cpu" / RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), "new_key": 1}))
    assert read_provenance(tmp_path / "cpu") == made


def test_current_means_same_lock_platform_place_records_and_inputs(tmp_path: Path) -> None:
    prefix = tmp_path / "cpu"
    assert not is_current(prefix, "a" * 64, "linux-64")
    environment(prefix, inputs={"a": "x"})
    assert is_current(prefix, "a" * 64, "linux-64")
    assert is_current(prefix, "a" * 64, "linux-64", {"a": "x"})
    assert not is_current(prefix, "a" * 64, "linux-64", {"a": "y"})
    assert not is_current(prefix, "b" * 64, "linux-64")
    assert not is_current(prefix, "a" * 64, "osx-arm64")
    (prefix / "conda-meta" / "added-1-0.json").write_text("{}")
    assert not is_current(prefix, "a" * 64, "linux-64")


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, DiskFullError), (errno.EACCES, InstallError)])
def test_a_verdict_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[TorchlocksError]
) -> None:
    environment(tmp_path / "cpu")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("torchlocks.core.files.write_new", fail)
    with pytest.raises(error, match="verdict could not be recorded") as caught:
        mark_verified(tmp_path / "cpu", True, "report")
    assert type(caught.value) is error
    found = read_provenance(tmp_path / "cpu")
    assert found is not None
    assert found.verified is None


# --- URLs --------------------------------------------------------------------------------------


@given(user=WORD, password=WORD, token=WORD)
def test_no_credential_survives_masking(user: str, password: str, token: str) -> None:
    secret = f"https://{user}:{password}@repo.example/t/{token}/chan/linux-64/x-1-0.conda"
    shown = mask(f"error sending request for url ({secret}) and {secret}")
    for each in (f"{user}:", password + "@", f"/t/{token}"):
        assert each not in shown
    assert "repo.example" in shown
    assert shown.count("/chan/linux-64/x-1-0.conda") == 2
    kept = strip_credentials(secret)
    assert kept == "https://repo.example/chan/linux-64/x-1-0.conda"


@pytest.mark.parametrize("url", [URL, "file:///opt/t-channel/linux-64/x-1-0.conda", "https://h:8080/a/noarch/x.conda"])
def test_a_url_without_credentials_stays_as_it_is(url: str) -> None:
    assert mask(url) == url
    assert strip_credentials(url) == url


def test_variables_are_replaced_in_credentials_only() -> None:
    values = {"USER": "me", "PASS": "a/b", "TOKEN": "tk-1"}
    url = "https://$USER:${PASS}@h.example/t/$TOKEN/c/noarch/x.conda"
    assert credential_variables(url) == ("USER", "PASS", "TOKEN")
    assert expand_credentials(url, values) == "https://me:a%2Fb@h.example/t/tk-1/c/noarch/x.conda"
    assert expand_credentials(url, {}) == url
    elsewhere = "https://h.example/$TOKEN/noarch/x.conda"
    assert expand_credentials(elsewhere, values) == elsewhere
    assert credential_variables(elsewhere) == ()


def test_mirrors_come_before_the_channel_and_only_for_their_channel() -> None:
    mirrors = {"https://conda.anaconda.org/conda-forge": ("https://a.example/cf/", "file:///srv/cf")}
    assert candidates(URL, mirrors) == (
        "https://a.example/cf/linux-64/numpy-2.3.0-py311_0.conda",
        "file:///srv/cf/linux-64/numpy-2.3.0-py311_0.conda",
        URL,
    )
    other = URL.replace("conda-forge", "conda-forge-dev")
    assert candidates(other, mirrors) == (other,)
    whole = {"https://conda.anaconda.org": ("https://mirror.example",)}
    assert candidates(URL, whole)[0] == "https://mirror.example/conda-forge/linux-64/numpy-2.3.0-py311_0.conda"


def test_hashes_are_required_before_anything_is_fetched() -> None:
    package = LockedPackage(name="x", version="1", build="0", subdir="noarch", url=URL, md5="0" * 32)
    with pytest.raises(IntegrityError, match="MD5 can be forged"):
        require_hashes([package], allow_md5=False)
    require_hashes([package], allow_md5=True)


# --- places ------------------------------------------------------------------------------------


def test_the_cache_is_in_the_documented_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATTLER_CACHE_DIR", str(tmp_path / "shared"))
    assert cache_folder() == tmp_path / "shared" / "pkgs"
    monkeypatch.setenv("TORCHLOCKS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert cache_folder(tmp_path / "named") == tmp_path / "named"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (OSError(errno.EACCES, "x"), False),
        (RuntimeError("failed to link: No space left on device (os error 28)"), True),
        (RuntimeError("something else (os error 2)"), False),
    ],
)
def test_a_full_disk_is_recognised_in_every_wording(error: Exception, full: bool) -> None:
    assert is_disk_full(error) is full
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = error
    assert is_disk_full(wrapped) is full


# --- swapping folders ---------------------------------------------------------------------------


def made(path: Path, content: str) -> Path:
    path.mkdir(parents=True)
    (path / "content").write_text(content)
    return path


def test_two_folders_change_places_in_one_step(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", "1"), made(tmp_path / "other", "2")
    if not swap.exchange(one, other):
        pytest.skip("this system or file system cannot exchange two folders in one step")
    assert (one / "content").read_text() == "2"
    assert (other / "content").read_text() == "1"


def test_an_exchange_with_something_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    one = made(tmp_path / "one", "1")
    if not swap.exchange(one, made(tmp_path / "other", "1")):
        pytest.skip("this system or file system cannot exchange two folders in one step")
    with pytest.raises(OSError, match="No such file"):
        swap.exchange(one, tmp_path / "none")
    assert (one / "content").read_text() == "1"


@pytest.mark.parametrize("exchange", [True, False])
def test_repair_finds_every_state_a_kill_can_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(swap, "exchange", lambda one, other: False)
    prefix = tmp_path / "cpu"
    steps: list[tuple[str, str]] = []
    rename = Path.rename

    class Killed(BaseException):
        pass

    def run(die_before: int) -> bool:
        """An old environment, a new one made and put in place; killed before its nth rename. True when it ended."""
        environment(prefix, install_id="old")
        new, install_id = swap.new_sibling(prefix)
        environment(new, install_id=install_id, prefix=str(prefix))
        count = 0

        def counted(self: Path, target: Path) -> Path:
            nonlocal count
            count += 1
            if count == die_before:
                raise Killed
            steps.append((self.name, Path(target).name))
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", counted)
            try:
                swap.put_in_place(new, prefix)
            except Killed:
                return False
        return True

    ended = False
    for die_before in range(1, 10):
        ended = run(die_before)
        swap.repair(prefix)
        found = read_provenance(prefix)
        assert found is not None, die_before
        previous = read_provenance(swap.hidden(prefix, "previous"))
        if found.install_id == "old":
            assert previous is None
        else:
            assert previous is not None
            assert previous.install_id == "old"
        assert {each.name for each in tmp_path.iterdir()} <= {"cpu", ".cpu.previous"}
        swap.discard(prefix, prefix)
        swap.discard(swap.hidden(prefix, "previous"), prefix)
        if ended:
            break
    assert ended
    assert steps


# --- extracting in another process ---------------------------------------------------------------


def test_the_process_that_extracts_answers_each_request_and_ends_with_its_input(tmp_path: Path) -> None:
    (tmp_path / "junk.conda").write_bytes(b"not a package")
    request = json.dumps([str(tmp_path / "junk.conda"), str(tmp_path / "out")])
    done = subprocess.run(
        [sys.executable, "-m", "torchlocks.install.unpack"],
        input=f"{request}\n{request}\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 2
    assert all("error" in answer for answer in answers)


def test_the_process_that_extracts_ends_quietly_when_its_parent_is_gone(tmp_path: Path) -> None:
    (tmp_path / "junk.conda").write_bytes(b"not a package")
    running = subprocess.Popen(
        [sys.executable, "-m", "torchlocks.install.unpack"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    running.stdout.close()
    running.stdout = None
    _, said = running.communicate(json.dumps([str(tmp_path / "junk.conda"), str(tmp_path / "out")]) + "\n", timeout=60)
    assert running.returncode == 0
    assert said == ""


@pytest.mark.skipif(os.name != "posix", reason="about the linkers of POSIX systems")
@pytest.mark.parametrize(("path", "warned"), [("/a/env", False), ("/a b/env", True)])
def test_a_path_with_a_space_is_warned_about(path: str, warned: bool) -> None:
    class Warned(Silent):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def warn(self, message: str) -> None:
            self.lines.append(message)

    progress = Warned()
    warn_of_space(Path(path), progress)
    assert [path in line and "torch.compile" in line for line in progress.lines] == [True] * warned
