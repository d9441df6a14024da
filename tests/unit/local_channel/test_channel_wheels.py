"""Pins and wheels: which lines are pins, which wheel is the right one, and what pip's failures mean."""

from __future__ import annotations

import hashlib
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.markers import default_environment
from packaging.tags import parse_tag
from packaging.utils import canonicalize_name
from packaging.version import Version

from torchlocks.core.errors import WheelError
from torchlocks.core.files import hash_file
from torchlocks.core.progress import Task
from torchlocks.local_channel.pins import Pin, read_pins, select_pins
from torchlocks.local_channel.wheels import fetch_wheels, glibc_floor, no_cpu_torch

RECIPES = Path(__file__).resolve().parents[3] / "recipes" / "local"
HASH = "a" * 64


class Recorder:
    """A Progress that remembers what was said."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def say(self, message: str) -> None: ...

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    @contextmanager
    def task(self, title: str, total: float | None = None, *, unit: str = "items") -> Iterator[Task]:
        class _Task:
            def advance(self, amount: float, note: str | None = None) -> None: ...

            def total(self, amount: float) -> None: ...

        yield _Task()


def pins_of(tmp_path: Path, text: str) -> tuple[Pin, ...]:
    path = tmp_path / "wheels.txt"
    path.write_text(text, encoding="utf-8")
    return read_pins(path)


def make_wheel(folder: Path, name: str, version: str, content: str = "", tag: str = "py3-none-any") -> Path:
    """A small, valid wheel of a module that has nothing but `content`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=3.8\n"
        )
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def pin_for(*wheels: Path) -> Pin:
    name, version = wheels[0].name.split("-")[:2]
    hashes = frozenset(hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels)
    return Pin(name=name, version=Version(version), hashes=hashes, marker=None, where="wheels.txt:1")


def test_reads_pins_as_uv_writes_them(tmp_path: Path) -> None:
    pins = pins_of(
        tmp_path,
        f"# made by a tool\nTyping_Extensions==4.16.0 ; python_version < '4' \\\n    --hash=sha256:{HASH} \\\n"
        f"    --hash=sha256:{'b' * 64}\n    # via torch\ntorch==2.13.0+cpu --hash=sha256:{HASH}\n",
    )
    assert [(pin.name, str(pin.version)) for pin in pins] == [("typing-extensions", "4.16.0"), ("torch", "2.13.0+cpu")]
    assert pins[0].hashes == {HASH, "b" * 64}
    assert pins[0].where.endswith("wheels.txt:2")
    assert pins[1].where.endswith("wheels.txt:6")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"numpy --hash=sha256:{HASH}", "does not pin one exact version"),
        (f"numpy>=2 --hash=sha256:{HASH}", "does not pin one exact version"),
        (f"numpy==2.* --hash=sha256:{HASH}", "does not pin one exact version"),
        ("numpy==2.4.6", "without a valid sha256 hash"),
        ("numpy==2.4.6 --hash=sha256:beef", "without a valid sha256 hash"),
        (f"numpy==2.4.6 --hash=md5:{HASH}", "without a valid sha256 hash"),
        ("--index-url https://example.org", "is not a requirement"),
        ("num py==1", "is not a requirement"),
    ],
)
def test_a_line_that_is_no_pin_is_named(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(WheelError, match=says) as caught:
        pins_of(tmp_path, f"# first\n{line}\n")
    assert caught.value.where == f"{tmp_path / 'wheels.txt'}:2"
    assert caught.value.fix


@given(st.text())
def test_any_text_gives_pins_or_a_wheel_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("pins") / "wheels.txt"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        pins = read_pins(path)
    except WheelError as error:
        wrong = error
    else:
        assert all(pin.hashes for pin in pins)
        return
    assert str(path) in str(wrong.where)


names = st.from_regex(r"[a-zA-Z][a-zA-Z0-9]{0,8}([-_.][a-zA-Z0-9]{1,8})?", fullmatch=True)
versions = st.lists(st.integers(0, 99), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
hashes = st.sets(st.binary(min_size=32, max_size=32).map(bytes.hex), min_size=1, max_size=4)


@given(st.lists(st.tuples(names, versions, hashes), max_size=5), st.sampled_from([" ", " \\\n    "]))
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, pins: list[tuple[str, str, set[str]]], between: str
) -> None:
    path = tmp_path_factory.mktemp("pins") / "wheels.txt"
    lines = [f"{n}=={v}" + "".join(f"{between}--hash=sha256:{h}" for h in sorted(hs)) for n, v, hs in pins]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [(pin.name, pin.version, set(pin.hashes)) for pin in read_pins(path)] == [
        (canonicalize_name(n), Version(v), hs) for n, v, hs in pins
    ]


def test_markers_choose_and_two_that_hold_are_refused(tmp_path: Path) -> None:
    one = f"numpy==1 ; python_version < '3' --hash=sha256:{HASH}\nnumpy==2 --hash=sha256:{HASH}\n"
    assert str(select_pins(pins_of(tmp_path, one))["numpy"].version) == "2"
    with pytest.raises(WheelError, match="numpy is pinned twice") as caught:
        select_pins(pins_of(tmp_path, one.replace("< '3'", ">= '3'")))
    assert "wheels.txt:1" in str(caught.value.where)
    assert "wheels.txt:2" in str(caught.value.where)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_committed_pins_have_one_wheel_of_each_for_every_python(python: str, platform: str) -> None:
    environment = {str(key): str(value) for key, value in default_environment().items()} | {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": platform,
    }
    pins = [
        pin
        for name in ("wheels.txt", "torch-cpu.txt")
        for pin in read_pins(RECIPES / name)
        if pin.marker is None or pin.marker.evaluate(environment)
    ]
    found = [pin.name for pin in pins]
    assert len(found) == len(set(found))
    old = {"exceptiongroup", "tomli"} if python == "3.10" else set()
    windows = {"colorama"} if platform == "win32" else set()
    everywhere = {"filelock", "fsspec", "iniconfig", "jinja2", "markupsafe", "mpmath", "networkx", "numpy", "packaging"}
    everywhere |= {"pip", "pluggy", "pygments", "pytest", "setuptools", "sympy", "torch", "typing-extensions"}
    assert set(found) == everywhere | old | windows
    torch = next(pin for pin in pins if pin.name == "torch")
    assert torch.version.local == ("cpu" if platform == "linux" else None)
    assert torch.version.public == "2.13.0"


def test_committed_pins_name_no_index() -> None:
    for path in RECIPES.glob("*.txt"):
        links = re.findall(r"https?://[^\s,]+", path.read_text(encoding="utf-8"))
        assert all(link.startswith("https://download.pytorch.org/") for link in links)


@pytest.mark.parametrize(
    ("tag", "floor"),
    [
        ("py3-none-any", None),
        ("cp311-cp311-manylinux_2_28_x86_64", "2.28"),
        ("cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64", "2.17"),
        ("cp39-cp39-manylinux1_i686", "2.5"),
        ("cp311-cp311-musllinux_1_2_x86_64", None),
        ("cp311-cp311-macosx_14_0_arm64", None),
    ],
)
def test_glibc_floor_is_the_oldest_that_the_tags_name(tag: str, floor: str | None) -> None:
    assert glibc_floor(parse_tag(tag)) == floor


def offline(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let pip see that folder and nothing else."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_wheel_that_is_there_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path / "wheels", "demo", "1.0")
    offline(monkeypatch, tmp_path / "nowhere")
    found = fetch_wheels([pin_for(wheel)], tmp_path / "wheels", Recorder())["demo"]
    assert found.path == wheel
    assert found.requires_python == ">=3.8"
    assert found.sha256 in found.pin.hashes


def test_a_missing_wheel_is_fetched_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = make_wheel(tmp_path / "offered", "demo", "1.0")
    offline(monkeypatch, tmp_path / "offered")
    found = fetch_wheels([pin_for(offered)], tmp_path / "wheels", Recorder())["demo"]
    assert found.path == tmp_path / "wheels" / offered.name
    assert found.path.read_bytes() == offered.read_bytes()
    assert sorted(path.name for path in (tmp_path / "wheels").iterdir()) == [offered.name]


def test_large_wheels_that_were_fetched_stay_when_a_later_one_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = [pin_for(make_wheel(tmp_path / "offered", name, "1.0")) for name in ("alpha", "beta", "gamma")]
    (tmp_path / "offered" / "beta-1.0-py3-none-any.whl").unlink()
    offline(monkeypatch, tmp_path / "offered")
    with pytest.raises(WheelError, match="beta"):
        fetch_wheels(pins, tmp_path / "wheels", Recorder(), large=["alpha", "beta"])
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == ["alpha-1.0-py3-none-any.whl"]


def test_a_damaged_wheel_is_named_and_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = make_wheel(tmp_path / "offered", "demo", "1.0")
    pin = pin_for(offered)
    stored = tmp_path / "wheels" / offered.name
    stored.parent.mkdir()
    damaged = bytearray(offered.read_bytes())
    damaged[40] ^= 1
    stored.write_bytes(damaged)
    offline(monkeypatch, tmp_path / "offered")
    progress = Recorder()
    fetch_wheels([pin], tmp_path / "wheels", progress)
    assert stored.read_bytes() == offered.read_bytes()
    assert len(progress.warnings) == 1
    assert str(stored) in progress.warnings[0]


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = make_wheel(tmp_path / "pinned", "demo", "1.0")
    make_wheel(tmp_path / "offered", "demo", "1.0", content="import os\n")
    offline(monkeypatch, tmp_path / "offered")
    with pytest.raises(WheelError, match="bytes are not the pinned ones"):
        fetch_wheels([pin_for(pinned)], tmp_path / "wheels", Recorder())
    assert list((tmp_path / "wheels").iterdir()) == []


def test_a_wheel_for_another_python_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_wheel(tmp_path / "wheels", "demo", "1.0", tag="cp27-cp27m-manylinux1_x86_64")
    before = other.read_bytes()
    mine = make_wheel(tmp_path / "offered", "demo", "1.0")
    offline(monkeypatch, tmp_path / "offered")
    found = fetch_wheels([pin_for(mine, other)], tmp_path / "wheels", Recorder())["demo"]
    assert found.path.name == mine.name
    assert other.read_bytes() == before


def test_a_wheel_that_pip_cannot_find_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch, tmp_path)
    pin = Pin(name="demo", version=Version("3.0"), hashes=frozenset({HASH}), marker=None, where="wheels.txt:7")
    make_wheel(tmp_path, "demo", "1.0")
    with pytest.raises(WheelError, match=r"no wheel of demo==3\.0") as caught:
        fetch_wheels([pin], tmp_path / "wheels", Recorder())
    assert caught.value.where == "wheels.txt:7"


def test_torch_for_cuda_only_is_reported_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The folder has torch 2.13.0 as PyPI has it for Linux: without `+cpu`.
    make_wheel(tmp_path / "offered", "torch", "2.13.0")
    offline(monkeypatch, tmp_path / "offered")
    pin = Pin(
        name="torch", version=Version("2.13.0+cpu"), hashes=frozenset({HASH}), marker=None, where="torch-cpu.txt:9"
    )
    with pytest.raises(WheelError, match=r"only finds a CUDA build of torch 2\.13\.0 for Python 3") as caught:
        fetch_wheels([pin], tmp_path / "wheels", Recorder())
    assert "https://download.pytorch.org/whl/cpu" in str(caught.value.fix)
    assert "PIP_FIND_LINKS" in str(caught.value.fix)
    assert list((tmp_path / "wheels").iterdir()) == []


@pytest.fixture
def pytorch_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Two local indexes: the one that pip is set up to use has no CPU build, `/whl/cpu` has. Yields paths asked for."""
    asked: list[str] = []
    cpu = make_wheel(tmp_path / "served" / "whl" / "cpu" / "torch", "torch", "2.13.0+cpu")
    plain = make_wheel(tmp_path / "served" / "simple" / "torch", "torch", "2.13.0")
    demo = make_wheel(tmp_path / "served" / "simple" / "demo", "demo", "1.0")
    for wheel in (cpu, plain, demo):
        link = f'<a href="{wheel.name.replace("+", "%2B")}#sha256={hash_file(wheel)}">{wheel.name}</a>'
        (wheel.parent / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torchlocks.local_channel.wheels.TORCH_CPU_INDEX", f"{url}/whl/cpu")
    yield asked
    server.shutdown()
    server.server_close()


def test_a_cpu_build_comes_from_pytorchs_own_index_and_nothing_else_does(
    tmp_path: Path, pytorch_index: list[str]
) -> None:
    served = tmp_path / "served"
    torch = pin_for(next((served / "whl" / "cpu" / "torch").glob("*.whl")))
    demo = pin_for(next((served / "simple" / "demo").glob("*.whl")))
    found = fetch_wheels([torch, demo], tmp_path / "wheels", Recorder())
    assert {name: str(wheel.pin.version) for name, wheel in found.items()} == {"torch": "2.13.0+cpu", "demo": "1.0"}
    elsewhere = [path for path in pytorch_index if path.startswith("/whl/cpu/")]
    assert elsewhere
    assert all("/torch/" in path for path in elsewhere)


def test_another_cpu_build_than_the_pinned_one_is_refused(tmp_path: Path, pytorch_index: list[str]) -> None:
    pin = Pin(name="torch", version=Version("2.13.0+cpu"), hashes=frozenset({HASH}), marker=None, where="torch-cpu.txt")
    with pytest.raises(WheelError, match="bytes are not the pinned ones"):
        fetch_wheels([pin], tmp_path / "wheels", Recorder())
    assert list((tmp_path / "wheels").iterdir()) == []


def test_an_index_that_cannot_be_reached_leaves_the_reason(
    tmp_path: Path, pytorch_index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchlocks.local_channel.wheels.TORCH_CPU_INDEX", "http://127.0.0.1:9/whl/cpu")
    pin = Pin(name="torch", version=Version("2.13.0+cpu"), hashes=frozenset({HASH}), marker=None, where="torch-cpu.txt")
    with pytest.raises(WheelError, match=r"only finds a CUDA build of torch 2\.13\.0") as caught:
        fetch_wheels([pin], tmp_path / "wheels", Recorder())
    assert "whl/cpu" in str(caught.value.fix)
    assert "PIP_FIND_LINKS" in str(caught.value.fix)


def test_no_torch_at_all_is_not_called_a_cuda_build() -> None:
    pin = Pin(
        name="torch", version=Version("2.13.0+cpu"), hashes=frozenset({HASH}), marker=None, where="torch-cpu.txt:9"
    )
    assert "CUDA" not in no_cpu_torch(pin, ["2.9.0", "2.10.0"]).what
    assert "CUDA" in no_cpu_torch(pin, ["2.9.0", "2.13.0"]).what
