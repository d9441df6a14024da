"""Bills of materials: valid by the standards' own validators, complete, and the same every time."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torchlocks.export.environment import LockedTarget, find_locked
from torchlocks.export.sbom import cyclonedx, package_url, spdx
from torchlocks.lockfile.models import pip_package

SLOW = bool(os.environ.get("TORCHLOCKS_SLOW"))
ROOT = Path(__file__).parents[3]
#: Plain, with proprietary licences, and with packages that name no licence, or one in words of their own.
LOCKS = [("cpu", "linux-64"), ("gpu-cu129", "linux-aarch64"), ("gpu-cu124", "linux-64"), ("gpu-cu124", "win-64")]


def there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@pytest.fixture(params=LOCKS if SLOW else LOCKS[1::2], ids="-".join)
def locked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LockedTarget:
    monkeypatch.chdir(ROOT)
    return find_locked(*request.param)


@pytest.fixture
def sample(locked: LockedTarget) -> LockedTarget:
    """One package of each licence, since the validators take their time; the long form takes all."""
    # And one of pip's, as locks from elsewhere have them.
    lock = replace(locked.lock, pip={locked.platform: (pip_package("Typing_Extensions", "4.12.2"),)})
    if SLOW:
        return replace(locked, lock=lock)
    return replace(
        locked, lock=lock, packages=tuple({package.license: package for package in locked.packages}.values())
    )


ODDEST = pytest.mark.parametrize("locked", LOCKS if SLOW else LOCKS[-1:], ids="-".join, indirect=True)


@ODDEST
@pytest.mark.skipif(not there("jsonschema"), reason="cyclonedx-python-lib[json-validation] is not installed")
def test_cyclonedx_is_valid(sample: LockedTarget) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(cyclonedx(sample)) is None


@pytest.mark.parametrize("make", [cyclonedx, spdx])
def test_what_a_lock_leaves_to_pip_is_in_the_bill(make: Callable[[LockedTarget], str], locked: LockedTarget) -> None:
    lock = replace(locked.lock, pip={locked.platform: (pip_package("Typing_Extensions", "4.12.2"),)})
    assert "pkg:pypi/typing-extensions@4.12.2" in make(replace(locked, lock=lock))
    assert "pkg:pypi/" not in make(locked)


@ODDEST
@pytest.mark.skipif(not there("spdx_tools"), reason="spdx-tools is not installed")
def test_spdx_is_valid(sample: LockedTarget, tmp_path: Path) -> None:
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    path = tmp_path / "bill.spdx.json"
    path.write_text(spdx(sample))
    document = parse_file(str(path))
    assert [str(message) for message in validate_full_spdx_document(document)] == []
    names = {sample.name, "typing-extensions", *(p.name for p in sample.packages)}
    assert {package.name for package in document.packages} == names


def test_cyclonedx_holds_every_package_with_purl_and_hashes(locked: LockedTarget) -> None:
    document = json.loads(cyclonedx(locked))
    parts = {part["name"]: part for part in document["components"]}
    assert parts.keys() == {package.name for package in locked.packages}
    for package in locked.packages:
        part = parts[package.name]
        assert part["version"] == package.version
        assert {each["alg"]: each["content"] for each in part["hashes"]} == {
            "SHA-256": package.sha256,
            "MD5": package.md5,
        }
        assert part["externalReferences"][0]["url"] == package.url
    assert document["metadata"]["component"]["version"] == locked.lock.sha256
    edges = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    assert (
        package_url(next(p for p in locked.packages if p.name == "python")).to_string()
        in edges[parts["numpy"]["bom-ref"]]
    )
    refs = {part["bom-ref"] for part in document["components"]}
    assert set(edges[document["metadata"]["component"]["bom-ref"]]) == refs


def test_purls_are_of_the_conda_type(locked: LockedTarget) -> None:
    from packageurl import PackageURL

    for package in locked.packages:
        purl = PackageURL.from_string(package_url(package).to_string())
        assert (purl.type, purl.namespace, purl.name, purl.version) == ("conda", None, package.name, package.version)
        assert purl.qualifiers == {
            "build": package.build,
            "channel": package.channel.rsplit("/", 1)[-1],
            "subdir": package.subdir,
            "type": "conda" if package.url.endswith(".conda") else "tar.bz2",
        }


def test_licences_are_expressions_where_valid_and_names_otherwise() -> None:
    locked = find_locked(str(ROOT / "locks" / "gpu-cu124" / "conda-lock.yml"), "win-64")
    parts = {part["name"]: part for part in json.loads(cyclonedx(locked))["components"]}
    assert parts["numpy"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert parts["m2w64-gcc-libs"]["licenses"] == [{"license": {"name": "GPL3+, partial:GCCRLE, partial:LGPL2+"}}]
    assert "licenses" not in parts["cuda-cudart"]
    declared = {part["name"]: part.get("licenseDeclared") for part in json.loads(spdx(locked))["packages"]}
    assert declared["numpy"] == "BSD-3-Clause"
    assert declared["cuda-cudart"] == "NOASSERTION"
    assert str(declared["m2w64-gcc-libs"]).startswith("LicenseRef-GPL3")


@pytest.mark.parametrize("make", [cyclonedx, spdx])
def test_the_same_lock_gives_the_same_bytes_and_another_another_serial(make: Callable[[LockedTarget], str]) -> None:
    path = str(ROOT / "locks" / "cpu" / "conda-lock.yml")
    one, other = (
        replace(each, packages=each.packages[:20])
        for each in (find_locked(path, "linux-64"), find_locked(path, "linux-aarch64"))
    )
    assert make(one) == make(one)

    def serial(text: str) -> Any:
        document = json.loads(text)
        return document.get("serialNumber") or document["documentNamespace"]

    assert serial(make(one)) != serial(make(other))
    changed = replace(one, packages=(replace(one.packages[0], sha256="0" * 64), *one.packages[1:]))
    assert serial(make(one)) != serial(make(changed))


def test_a_lock_without_times_has_no_made_up_one() -> None:
    whole = find_locked(str(ROOT / "locks" / "cpu" / "conda-linux-64.lock"), None)
    locked = replace(whole, packages=whole.packages[:5])
    assert "timestamp" not in json.loads(cyclonedx(locked))["metadata"]
    assert cyclonedx(locked) == cyclonedx(locked)


def test_credentials_in_urls_stay_out(tmp_path: Path) -> None:
    lock = tmp_path / "private.lock"
    url = "https://me:secret@example.org/t/tk-hidden/mine/linux-64/zlib-1.3-0.conda"
    lock.write_text(f"@EXPLICIT\n{url}#{'0' * 64}\n")
    for text in (cyclonedx(find_locked(str(lock), None)), spdx(find_locked(str(lock), None))):
        assert "secret" not in text
        assert "hidden" not in text
