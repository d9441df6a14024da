"""Bills of materials: a lock's packages with purls, hashes, licences and dependencies, as CycloneDX or SPDX.

Both depend on the lock alone, so that the same lock gives the same bytes: no random serial numbers, and the time of the
newest package where the formats require one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from torchlocks import __version__
from torchlocks.core.urls import strip_credentials
from torchlocks.export.environment import LockedTarget
from torchlocks.export.licences import Licence, read_licence
from torchlocks.export.pins import channel_label

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License
    from packageurl import PackageURL

    from torchlocks.lockfile.models import LockedPackage, PipPackage


def package_url(package: LockedPackage) -> PackageURL:
    """Return the package's purl, of the type conda: with build, channel, subdir and archive type."""
    from packageurl import PackageURL

    archive = "tar.bz2" if package.file_name.endswith(".tar.bz2") else "conda"
    qualifiers = {
        "build": package.build,
        "channel": channel_label(package.channel),
        "subdir": package.subdir,
        "type": archive,
    }
    return PackageURL("conda", None, package.name, package.version, qualifiers)


def cyclonedx(locked: LockedTarget) -> str:
    """Return the bill of materials as CycloneDX 1.6 JSON, the newest version that most consumers read."""
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.dependency import Dependency
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    root = Component(
        name=locked.name,
        type=ComponentType.PLATFORM,
        bom_ref=_root_ref(locked),
        version=locked.lock.sha256,
        properties=[
            Property(name="torchlocks:platform", value=locked.platform),
            Property(name="torchlocks:lock-sha256", value=locked.lock.sha256),
            *(
                Property(name=f"torchlocks:virtual-package:{name}", value=value)
                for name, value in sorted(locked.virtual_packages.items())
            ),
        ],
    )
    tool = Component(name="torchlocks", version=__version__, type=ComponentType.APPLICATION)
    parts = {package.name: _component(package) for package in locked.packages}
    others = [_pip_component(package) for package in pip_packages(locked)]
    # The library's register_dependency is quadratic in the number of components.
    needs = [(root, [*parts.values(), *others])]
    needs += [(parts[each.name], [parts[name] for name in _needs(each, parts.keys())]) for each in locked.packages]
    needs += [(other, []) for other in others]
    bom = Bom(
        serial_number=_serial(locked),
        components=[*parts.values(), *others],
        dependencies=[
            Dependency(component.bom_ref, dependencies=[Dependency(each.bom_ref) for each in needed])
            for component, needed in needs
        ],
    )
    bom.metadata.component = root
    bom.metadata.tools.components.add(tool)
    if (made := _newest(locked)) is not None:
        bom.metadata.timestamp = made
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    if made is None:
        # The library puts the present time where there is none.
        document: dict[str, Any] = json.loads(text)
        document["metadata"].pop("timestamp")
        text = json.dumps(document, indent=2)
    return text + "\n"


def pip_packages(locked: LockedTarget) -> tuple[PipPackage, ...]:
    """Return the packages that a lock from elsewhere leaves to pip."""
    return tuple(locked.lock.pip.get(locked.platform, ()))


def _pip_url(package: PipPackage) -> PackageURL:
    from packageurl import PackageURL

    return PackageURL("pypi", None, package.name, package.version)


def _pip_component(package: PipPackage) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    purl = _pip_url(package)
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=purl.to_string(),
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)] if package.sha256 else None,
    )


def _component(package: LockedPackage) -> Component:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
    from cyclonedx.model.component import Component, ComponentType

    purl = package_url(package)
    licence = read_licence(package.license)
    hashes = ((HashAlgorithm.SHA_256, package.sha256), (HashAlgorithm.MD5, package.md5))
    found = [HashType(alg=algorithm, content=digest) for algorithm, digest in hashes if digest]
    properties = [Property(name="torchlocks:licence-kind", value=licence.kind)]
    if package.size is not None:
        properties.append(Property(name="torchlocks:size-bytes", value=str(package.size)))
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=purl.to_string(),
        purl=purl,
        hashes=found,
        licenses=_cyclonedx_licence(licence),
        properties=properties,
        external_references=[
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION, url=XsUri(strip_credentials(package.url)), hashes=found
            )
        ],
    )


def _cyclonedx_licence(licence: Licence) -> list[License]:
    """Return an SPDX id, an expression, or the channel's text; an empty list without a licence."""
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
    from cyclonedx.spdx import is_supported_id

    if licence.text is None:
        return []
    if licence.expression is None:
        return [DisjunctiveLicense(name=licence.text)]
    if is_supported_id(licence.expression):
        return [DisjunctiveLicense(id=licence.expression)]
    return [LicenseExpression(licence.expression)]


def spdx(locked: LockedTarget) -> str:
    """Return the bill of materials as SPDX 2.3 JSON (section numbers are those of the SPDX 2.3 specification)."""
    root = f"SPDXRef-environment-{locked.name}"
    ids = {package.name: _spdx_id(number, package) for number, package in enumerate(locked.packages)}
    packages = [_spdx_package(package, ids[package.name]) for package in locked.packages]
    relations = [_relation("SPDXRef-DOCUMENT", "DESCRIBES", root)]
    for package in locked.packages:
        relations.append(_relation(root, "CONTAINS", ids[package.name]))
        relations += [_relation(ids[package.name], "DEPENDS_ON", ids[name]) for name in _needs(package, ids.keys())]
    for number, other in enumerate(pip_packages(locked)):
        packages.append(_spdx_pip_package(other, f"SPDXRef-pip-{number}"))
        relations.append(_relation(root, "CONTAINS", f"SPDXRef-pip-{number}"))
    texts = {name: text for package in locked.packages for name, text in _references(package)}
    made = _newest(locked) or datetime(1970, 1, 1, tzinfo=timezone.utc)
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{locked.name}-{locked.platform}",
        "documentNamespace": f"urn:uuid:{_serial(locked)}",
        "creationInfo": {
            "created": made.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: torchlocks-{__version__}"],
        },
        "packages": [
            {
                "SPDXID": root,
                "name": locked.name,
                "versionInfo": locked.lock.sha256,
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": False,
                "comment": f"The environment {locked.name} on {locked.platform}; its version is the lock's SHA-256.",
            },
            *packages,
        ],
        "relationships": relations,
        "hasExtractedLicensingInfos": [
            {"licenseId": name, "name": name.removeprefix("LicenseRef-"), "extractedText": text}
            for name, text in sorted(texts.items())
        ],
    }
    if not texts:
        del document["hasExtractedLicensingInfos"]
    return json.dumps(document, indent=2) + "\n"


def _spdx_package(package: LockedPackage, spdx_id: str) -> dict[str, Any]:
    licence = read_licence(package.license)
    checksums = (("SHA256", package.sha256), ("MD5", package.md5))
    return {
        "SPDXID": spdx_id,
        "name": package.name,
        "versionInfo": package.version,
        "packageFileName": package.file_name,
        "downloadLocation": strip_credentials(package.url),
        "filesAnalyzed": False,
        "checksums": [{"algorithm": name, "checksumValue": digest} for name, digest in checksums if digest],
        "licenseDeclared": licence.expression or (_reference(licence.text) if licence.text else "NOASSERTION"),
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": package_url(package).to_string(),
            }
        ],
    }


def _spdx_pip_package(package: PipPackage, spdx_id: str) -> dict[str, Any]:
    purl = _pip_url(package)
    checksums = [{"algorithm": "SHA256", "checksumValue": package.sha256}] if package.sha256 else []
    return {
        "SPDXID": spdx_id,
        "name": purl.name,
        "versionInfo": purl.version or "NOASSERTION",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "checksums": checksums,
        "licenseDeclared": "NOASSERTION",
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl.to_string(),
            }
        ],
    }


def _references(package: LockedPackage) -> Iterator[tuple[str, str]]:
    """Yield the licences of a package without an SPDX id, and a text for each (section 10)."""
    licence = read_licence(package.license)
    if licence.text and licence.expression is None:
        yield _reference(licence.text), f"The channel's record: {licence.text}"
    elif licence.expression:
        for word in licence.expression.replace("(", " ").replace(")", " ").split():
            if word.startswith("LicenseRef-"):
                yield word, f"See the licence files inside {package.file_name} (info/licenses)."


def _reference(text: str) -> str:
    """Return a `LicenseRef-` for a licence text that is not an expression: letters, digits, dots and dashes."""
    return "LicenseRef-" + "-".join(
        "".join(c if (c.isascii() and c.isalnum()) or c in ".-" else " " for c in text).split()
    )


def _spdx_id(number: int, package: LockedPackage) -> str:
    # Names may contain characters that ids may not; the number keeps two such names apart.
    return f"SPDXRef-{number}-" + "".join(
        c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in package.name
    )


def _relation(element: str, kind: str, related: str) -> dict[str, str]:
    return {"spdxElementId": element, "relationshipType": kind, "relatedSpdxElement": related}


def _needs(package: LockedPackage, there: Any) -> list[str]:
    """Return the names of the packages of the lock that this one depends on, without virtual packages."""
    return sorted(package.dependency_names & set(there))


def _root_ref(locked: LockedTarget) -> str:
    return f"torchlocks:{locked.name}:{locked.platform}"


def _serial(locked: LockedTarget) -> uuid.UUID:
    """Return a serial number from the content: name, platform, packages with hashes, and version of torchlocks."""
    content = [__version__, locked.name, locked.platform, locked.lock.sha256]
    content += [f"{package.url}#{package.sha256 or package.md5}" for package in locked.packages]
    return uuid.uuid5(uuid.NAMESPACE_URL, "\n".join(content))


def _newest(locked: LockedTarget) -> datetime | None:
    times = [package.timestamp_ms for package in locked.packages if package.timestamp_ms is not None]
    return datetime.fromtimestamp(max(times) // 1000, tz=timezone.utc) if times else None
