"""Lockfiles are read as they are, written as they were, and refused with the line that is wrong."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchlocks.core.errors import LockfileError, MissingFileError
from torchlocks.lockfile.explicit import link_order, write_explicit
from torchlocks.lockfile.formats import (
    merge,
    parse_lock,
    read_lock,
    select_records,
    to_record,
)
from torchlocks.lockfile.models import Lock, LockedPackage
from torchlocks.lockfile.open import read_bytes
from torchlocks.lockfile.pixi import write_pixi

DATA = Path(__file__).parents[2] / "data" / "locks"
GPU = DATA / "gpu-cu118"
CPU = DATA / "cpu"
FORGE = "https://conda.anaconda.org/conda-forge"
HERE = Path("some.lock")


def parse(text: str) -> Lock:
    return parse_lock(text.encode(), HERE)


def identity(package: LockedPackage) -> tuple[str, ...]:
    return package.name, package.version, package.build, package.subdir, package.url


# Reading what real tools wrote


def test_conda_lock_is_read_whole() -> None:
    lock = read_lock(GPU / "conda-lock.yml")
    assert (lock.kind, lock.platforms) == ("conda-lock", ("linux-64",))
    assert lock.channels == (FORGE,)
    assert len(lock.packages["linux-64"]) == 87
    assert lock.sha256 == hashlib.sha256((GPU / "conda-lock.yml").read_bytes()).hexdigest()
    torch = next(package for package in lock.packages["linux-64"] if package.name == "pytorch")
    assert (torch.version, torch.build, torch.subdir) == ("2.4.0", "cuda118_py311h4ee7bbc_301", "linux-64")
    assert torch.sha256 == "6241656f6e85dfe6488023d5c049799603986ad247b41a40625693689129f875"
    assert torch.md5 is not None
    assert torch.depends is not None
    assert "numpy >=1.19,<3" in torch.depends


def test_the_three_formats_agree() -> None:
    conda_lock, pixi = read_lock(CPU / "conda-lock.yml"), read_lock(CPU / "pixi.lock")
    for platform in ("linux-64", "osx-arm64"):
        explicit = read_lock(CPU / f"conda-{platform}.lock")
        packages = {identity(package): package.sha256 for package in conda_lock.packages[platform]}
        assert packages == {identity(package): package.sha256 for package in pixi.packages[platform]}
        assert packages == {identity(package): package.sha256 for package in explicit.packages[platform]}


def test_pixi_lock_has_complete_records() -> None:
    lock = read_lock(GPU / "pixi.lock")
    torch = next(package for package in lock.packages["linux-64"] if package.name == "pytorch")
    assert torch.size == 35572020
    assert torch.license == "BSD-3-Clause"
    assert torch.timestamp_ms is not None
    assert torch.constrains
    assert "__cuda=11.8" in lock.virtual_packages["linux-64"]
    assert lock.channels == (FORGE,)


def test_pixi_lock_of_an_older_version_with_a_wheel() -> None:
    lock = read_lock(DATA / "foreign" / "pixi-v6.lock")
    assert [package.name for package in lock.packages["linux-64"]] == ["tzdata"]
    assert [package.requirement for package in lock.pip["linux-64"]] == ["six==1.17.0"]


def test_explicit_file_of_conda_lock() -> None:
    lock = read_lock(DATA / "foreign" / "conda-lock-render-linux-64.lock")
    ours = read_lock(GPU / "conda-lock.yml")
    assert lock.kind == "explicit"
    assert dict(lock.content_hash) == dict(ours.content_hash)
    assert {(p.url, p.md5) for p in lock.packages["linux-64"]} == {(p.url, p.md5) for p in ours.packages["linux-64"]}
    assert all(package.depends is None and package.sha256 is None for package in lock.packages["linux-64"])


@pytest.mark.parametrize("mark", ["", "sha256:"])
def test_explicit_hashes_in_both_forms(mark: str) -> None:
    digest = "A" * 64
    lock = parse(f"@EXPLICIT\n{FORGE}/linux-64/a-1-0.conda#{mark}{digest}\r\n")
    assert lock.packages["linux-64"][0].sha256 == digest.lower()


def test_explicit_file_without_a_platform_takes_the_only_one() -> None:
    assert parse(f"@EXPLICIT\n{FORGE}/noarch/a-1-0.conda\n{FORGE}/win-64/b-1-0.conda\n").platforms == ("win-64",)
    with pytest.raises(LockfileError, match="several platforms"):
        parse(f"@EXPLICIT\n{FORGE}/osx-64/a-1-0.conda\n{FORGE}/win-64/b-1-0.conda\n")


def test_a_package_of_two_categories_is_one_package() -> None:
    entry = _ENTRY.format(version="'1'", url=f"{FORGE}/noarch/a-1-0.conda", category="main")
    dev = entry.replace("category: main", "category: dev")
    assert len(parse(_HEADER + entry + dev).packages["linux-64"]) == 1
    assert len(parse(_HEADER + entry + entry).packages["linux-64"]) == 2, "a true duplicate must stay visible"


def test_an_unquoted_version_is_not_a_number() -> None:
    lock = parse(_HEADER + _ENTRY.format(version="1.10", url=f"{FORGE}/noarch/a-1.10-0.conda", category="main"))
    assert lock.packages["linux-64"][0].version == "1.10"


def test_the_identity_of_a_file_is_its_bytes() -> None:
    data = b"\xef\xbb\xbf@EXPLICIT\r\n" + f"{FORGE}/noarch/a-1-0.conda\r\n".encode()
    assert parse_lock(data, HERE).sha256 == hashlib.sha256(data).hexdigest()


# Writing


@pytest.mark.parametrize("folder", [CPU, GPU])
def test_explicit_round_trip(folder: Path) -> None:
    lock = merge(read_lock(folder / "conda-lock.yml"), read_lock(folder / "pixi.lock"))
    for platform in lock.platforms:
        text = write_explicit(lock, platform)
        assert text == (folder / f"conda-{platform}.lock").read_text(encoding="utf-8")
        again = parse(text)
        assert again.platforms == (platform,)
        assert write_explicit(again, platform) == text
        assert {(p.url, p.sha256) for p in again.packages[platform]} == {
            (p.url, p.sha256) for p in lock.packages[platform]
        }


@pytest.mark.parametrize("folder", [CPU, GPU])
def test_pixi_round_trip_in_any_order(folder: Path) -> None:
    lock = read_lock(folder / "pixi.lock")
    records = {
        platform: [to_record(package) for package in reversed(packages)]
        for platform, packages in reversed(list(lock.packages.items()))
    }
    text = write_pixi(records, lock.channels, lock.virtual_packages)
    again = parse(text)
    assert again.packages == lock.packages
    assert again.virtual_packages == lock.virtual_packages
    assert write_pixi({p: list(reversed(r)) for p, r in records.items()}, lock.channels, lock.virtual_packages) == text


def test_pixi_names_channels_by_url() -> None:
    text = write_pixi({"linux-64": []}, ["pytorch", "https://conda.anaconda.org/conda-forge"])
    assert parse(text).channels == ("https://conda.anaconda.org/pytorch", FORGE)


def test_explicit_links_dependencies_first() -> None:
    lock = merge(read_lock(GPU / "conda-lock.yml"), read_lock(GPU / "pixi.lock"))
    order = [package.name for package in parse(write_explicit(lock, "linux-64")).packages["linux-64"]]
    for package in lock.packages["linux-64"]:
        for spec in package.depends or ():
            name = spec.split()[0]
            if name in order and {package.name, name} != {"python", "pip"}:
                assert order.index(name) < order.index(package.name), f"{package.name} needs {name}"


def test_rattler_reads_what_we_write() -> None:
    from rattler.explicit_environment import ExplicitEnvironmentSpec

    lock = read_lock(GPU / "conda-lock.yml")
    spec = ExplicitEnvironmentSpec.from_str(write_explicit(lock, "linux-64"))
    assert str(spec.platform) == "linux-64"
    assert len(spec.packages) == len(lock.packages["linux-64"])


def test_no_explicit_file_without_hashes_or_platform() -> None:
    lock = parse(f"@EXPLICIT\n{FORGE}/linux-64/a-1-0.conda\n")
    with pytest.raises(LockfileError, match=r"a-1-0\.conda has no hash"):
        write_explicit(lock, "linux-64")
    with pytest.raises(LockfileError, match="no platform win-64"):
        write_explicit(lock, "win-64")


def test_merge_fills_in_and_never_replaces() -> None:
    bare, full = read_lock(GPU / "conda-lock.yml"), read_lock(GPU / "pixi.lock")
    merged = merge(bare, full)
    assert all(package.size and package.constrains is not None for package in merged.packages["linux-64"])
    swapped = [replace(package, sha256="0" * 64) for package in full.packages["linux-64"]]
    with pytest.raises(LockfileError, match="disagree on the sha256"):
        merge(bare, replace(full, packages={"linux-64": tuple(swapped)}))


def test_records_are_selected_by_url_and_hash() -> None:
    bare, full = read_lock(GPU / "conda-lock.yml"), read_lock(GPU / "pixi.lock")
    pool = [to_record(package) for package in full.packages["linux-64"]]
    chosen = select_records(bare, reversed(pool))["linux-64"]
    assert [record.url for record in chosen] == [package.url for package in bare.packages["linux-64"]]
    with pytest.raises(LockfileError, match="no channel record"):
        select_records(bare, pool[1:])
    pool[0].sha256 = bytes(32)
    with pytest.raises(LockfileError, match="disagree on the sha256"):
        select_records(bare, pool)


# Refusing, with the line


_HEADER = f"""version: 1
metadata:
  content_hash:
    linux-64: abc
  channels:
  - url: {FORGE}
    used_env_vars: []
  platforms:
  - linux-64
  sources: []
package:
"""
_ENTRY = """- name: a
  version: {version}
  manager: conda
  platform: linux-64
  dependencies: {{}}
  url: {url}
  hash:
    md5: 0123456789abcdef0123456789abcdef
  category: {category}
  optional: false
"""
_GOOD = _HEADER + _ENTRY.format(version="'1'", url=f"{FORGE}/noarch/a-1-0.conda", category="main")


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("", "empty", "some.lock"),
        ("hello\n", "not a lockfile", "some.lock"),
        ("dependencies:\n- python\n", "environment file", "some.lock"),
        (_GOOD.replace("version: 1\n", "version: 2\n", 1), "version 2", "line 1, key version"),
        (_GOOD.replace("  url: https://", "  url: "), "not a URL", "line 17, key package[0].url"),
        (_GOOD.replace("a-1-0.conda", "a-1-0.whl"), "not the name of a conda package", "line 17, key package[0].url"),
        (_GOOD.replace("a-1-0.conda", "a-1-0.conda?x=1"), "not the URL of a package", "key package[0].url"),
        (_GOOD.replace("0123456789abcdef0", "xyz"), "not a md5 hash", "line 19, key package[0].hash.md5"),
        (_GOOD.replace("  version: '1'\n", ""), "'version' is missing", "line 12, key package[0]"),
        (_GOOD.replace("manager: conda", "manager: brew"), "neither conda nor pip", "line 14, key package[0].manager"),
        (_GOOD.replace("  dependencies: {}", "  dependencies: []"), "Expected a mapping, not a list", "line 16"),
        (_GOOD.replace("- name: a", "- name: [a]"), "Expected text, not a list", "line 12, key package[0].name"),
        (_GOOD + "- [", "not valid YAML", "line 23"),
        (_GOOD + "  \x07bell", "not valid YAML", "some.lock"),
        ("<<<<<<< ours\n" + _GOOD, "merge conflicts", "line 1"),
        (f"{FORGE}/noarch/a-1-0.conda\n@EXPLICIT\n", "before the line @EXPLICIT", "line 1"),
        ("@EXPLICIT\n\n./a-1-0.conda\n", "not a URL", "line 3"),
        (f"@EXPLICIT\n{FORGE}/noarch/a-1-0.conda#beef\n", "not a md5 hash", "line 2"),
        (f"@EXPLICIT\n{FORGE}/noarch/a-1-0.conda#{'g' * 64}\n", "not a sha256 hash", "line 2"),
        ("@EXPLICIT\nhttps://[bad/noarch/a-1-0.conda\n", "not a URL", "line 2"),
        ("version: 99\nenvironments: {}\n", "pixi.lock cannot be read", "some.lock"),
        ("version: 6\nenvironments:\n  x:\n    channels: []\n    packages: {}\n  y:\n    channels: []\n"
         "    packages: {}\npackages: []\n", "2 environments", "some.lock"),
    ],
)  # fmt: skip
def test_what_is_wrong_and_where(text: str, what: str, where: str) -> None:
    with pytest.raises(LockfileError) as caught:
        parse(text)
    assert what in caught.value.what
    assert where in str(caught.value.where)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_lock(tmp_path / "none.lock")
    with pytest.raises(LockfileError, match="cannot be read") as of_a_lock:
        read_lock(tmp_path)
    with pytest.raises(LockfileError, match="cannot be read") as of_bytes:
        read_bytes(str(tmp_path))
    assert of_a_lock.value.fix == of_bytes.value.fix == "name one of the files in it."
    with pytest.raises(LockfileError, match="not UTF-8"):
        parse_lock(b"\xff\xfe\x00", HERE)


def test_depth_is_an_error_and_no_crash() -> None:
    with pytest.raises(LockfileError):
        parse("package: " + "[" * 100_000)
    with pytest.raises(LockfileError):
        parse("environments: " + "[" * 10_000)
    with pytest.raises(LockfileError, match="nested too deeply"):
        parse("package: " + "[" * 100 + "]" * 100)


# Properties

NAMES = st.from_regex(r"\A[a-z0-9_][a-z0-9_.-]{0,20}\Z")
VERSIONS = st.from_regex(r"\A[0-9][0-9a-z_.!+]{0,10}\Z")
BUILDS = st.from_regex(r"\A[A-Za-z0-9_.+]{1,12}\Z")
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(NAMES, VERSIONS, BUILDS, st.sampled_from([".conda", ".tar.bz2"]), DIGESTS)
def test_any_file_name_comes_apart_as_it_was_put_together(
    name: str, version: str, build: str, ending: str, digest: str
) -> None:
    url = f"https://example.org/a%20channel/label/dev/linux-64/{name}-{version}-{build}{ending}"
    (package,) = parse(f"@EXPLICIT\n{url}#{digest}\n").packages["linux-64"]
    assert (package.name, package.version, package.build, package.subdir) == (name, version, build, "linux-64")
    assert (package.url, package.sha256) == (url, digest)
    assert package.channel == "https://example.org/a%20channel/label/dev"


GARBAGE = st.one_of(
    st.text(max_size=200),
    st.text(alphabet="[]{}:-,'\"&*!|>%@`#\n ~0a", max_size=60),
    st.sampled_from(_GOOD.splitlines()),
)


@settings(max_examples=300)
@given(
    st.sampled_from(["@EXPLICIT\n", "package:\n", _GOOD, "environments:\n", "version: 6\nenvironments:\n", ""]), GARBAGE
)
def test_garbage_is_refused_and_nothing_else(start: str, garbage: str) -> None:
    try:
        lock = parse_lock((start + garbage).encode("utf-8", "surrogatepass"), HERE)
    except LockfileError as error:
        assert error.where  # noqa: PT017 - raising is allowed, not required
        return
    assert all(package.url and package.file_name for packages in lock.packages.values() for package in packages)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_lock_is_read_or_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["gpu-cu118/conda-linux-64.lock", "gpu-cu118/pixi.lock", "cpu/conda-lock.yml"]))
    lines = (DATA / name).read_text(encoding="utf-8").split("\n")
    at = data.draw(st.integers(0, len(lines) - 1))
    lines[at : at + data.draw(st.integers(0, 3))] = data.draw(st.lists(GARBAGE, max_size=2))
    try:
        parse("\n".join(lines).encode("utf-8", "replace").decode())
    except LockfileError as error:
        assert error.where  # noqa: PT017


@given(st.dictionaries(st.integers(0, 30), st.sets(st.integers(0, 30), max_size=4), max_size=30), st.randoms())
def test_link_order_holds_for_any_graph_and_any_input_order(graph: dict[int, set[int]], random: object) -> None:
    import random as randomness

    assert isinstance(random, randomness.Random)
    packages = [
        LockedPackage(
            name=f"p{node}",
            version="1",
            build="0",
            subdir="noarch",
            url=f"{FORGE}/noarch/p{node}-1-0.conda",
            depends=tuple(f"p{other} >=1" for other in needs),
        )
        for node, needs in graph.items()
    ]
    ordered = link_order(tuple(packages))
    assert sorted(p.name for p in ordered) == sorted(p.name for p in packages)
    random.shuffle(packages)
    assert link_order(tuple(packages)) == ordered
    acyclic = all(other < node for node, needs in graph.items() for other in needs)
    if acyclic:
        place = {package.name: index for index, package in enumerate(ordered)}
        for node, needs in graph.items():
            assert all(place[f"p{other}"] < place[f"p{node}"] for other in needs if other in graph)
