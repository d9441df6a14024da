"""Rules on each package by itself: hashes, URL, file name, platform."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

from torchlocks.check.model import Problem, Subject, rule
from torchlocks.core.errors import LockfileError
from torchlocks.lockfile.fields import channel_urls, has_secret
from torchlocks.lockfile.models import split_file_name

RELOCK = "make the lock again with `make lock`."


@rule("sha256-missing", "Only a SHA-256 distinguishes a package from an imitation.")
def sha256_missing(subject: Subject) -> Iterator[Problem]:
    for package in subject.packages:
        if package.sha256 is None:
            weaker = "only an MD5" if package.md5 else "no hash at all"
            yield Problem(
                message=f"{package.file_name} has no SHA-256, {weaker}",
                package=package.name,
                fix=RELOCK,
                # Explicit files have one hash; many tools write MD5 there.
                severity="warning" if subject.lock.kind == "explicit" and package.md5 else "error",
            )


@rule("md5-missing", "conda-lock's own install checks MD5 and nothing else.")
def md5_missing(subject: Subject) -> Iterator[Problem]:
    if subject.lock.kind == "conda-lock":
        for package in subject.packages:
            if package.md5 is None:
                yield Problem(message=f"{package.file_name} has no MD5", package=package.name, fix=RELOCK)


@rule("url-not-https", "What travels in the clear can be changed on the way.")
def url_not_https(subject: Subject) -> Iterator[Problem]:
    for package in subject.packages:
        scheme = urlsplit(package.url).scheme
        if scheme == "file":
            yield Problem(
                message=f"{package.file_name} is a file of one machine (file://)",
                package=package.name,
                fix="lock from a channel with an https:// URL, unless the lock is for this machine alone.",
                severity="error" if subject.row else "warning",
            )
        elif scheme != "https":
            yield Problem(
                message=f"{package.file_name} is fetched by {scheme}://, not https://",
                package=package.name,
                fix="lock from a channel with an https:// URL.",
            )


@rule("url-credentials", "A secret in a committed lock is a secret no more.")
def url_credentials(subject: Subject) -> Iterator[Problem]:
    for package in subject.packages:
        # The message must not repeat it. A variable in its place, as conda-lock keeps it, is no secret.
        if has_secret(package.url):
            yield Problem(
                message=f"the URL of {package.file_name} contains a user name, password or token",
                package=package.name,
                fix="revoke the secret, then lock without credentials in the channel's URL.",
            )


@rule("channel-unknown", "A package from another channel is another package, whatever its name.", "own")
def channel_unknown(subject: Subject) -> Iterator[Problem]:
    named = subject.row.channels if subject.row else subject.lock.channels
    allowed = {url for channel in named for url in channel_urls(channel)}
    for package in subject.packages:
        if package.channel not in allowed:
            yield Problem(
                message=f"{package.file_name} comes from {_without_secrets(package.channel)}, "
                f"which is not among the channels {', '.join(named)}",
                package=package.name,
                fix="add the channel to matrix.yml if it is meant; " + RELOCK,
            )


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    path = re.sub(r"/t/[^/]+", "/t/…", parts.path)
    return f"{parts.scheme}://{parts.hostname or ''}{path}"


@rule("file-name", "Clients link what the file is, not what the lock calls it.")
def file_name(subject: Subject) -> Iterator[Problem]:
    for package in subject.packages:
        try:
            actual = split_file_name(package.file_name)
        except LockfileError as error:
            yield Problem(message=error.what, package=package.name, fix=RELOCK)
            continue
        expected = (package.name, package.version, package.build)
        if actual != expected:
            yield Problem(
                message=f"the file {package.file_name} is not {'-'.join(expected)}", package=package.name, fix=RELOCK
            )


@rule("subdir", "A package of another platform does not run here.")
def subdir(subject: Subject) -> Iterator[Problem]:
    for package in subject.packages:
        if package.subdir not in (subject.subdir, "noarch"):
            yield Problem(
                message=f"{package.file_name} is for {package.subdir}, the lock for {subject.subdir}",
                package=package.name,
                fix=RELOCK,
            )


@rule("duplicate-package", "Of two packages with one name, each overwrites the other's files.")
def duplicate_package(subject: Subject) -> Iterator[Problem]:
    for name, count in sorted(Counter(package.name for package in subject.packages).items()):
        if count > 1:
            files = ", ".join(package.file_name for package in subject.packages if package.name == name)
            yield Problem(message=f"{name} is in the lock {count} times: {files}", package=name, fix=RELOCK)


@rule("pip-package", "Packages from elsewhere are outside what the solver proved.")
def pip_package(subject: Subject) -> Iterator[Problem]:
    for package in subject.pip:
        yield Problem(
            message=f"{package.requirement} is a pip package; torchlocks does not install it",
            package=package.name,
            fix="ask for the conda package of it instead.",
            severity="warning",
        )


@rule("source-package", "What is built on each machine anew is not the same everywhere.")
def source_package(subject: Subject) -> Iterator[Problem]:
    for text in subject.lock.sources.get(subject.platform, ()):
        yield Problem(
            message=f"{text} is built from source; torchlocks does not install it",
            package=text.partition(" ")[0],
            fix="build it as a conda package, and lock that.",
            severity="warning",
        )


RULES = (
    sha256_missing,
    md5_missing,
    url_not_https,
    url_credentials,
    channel_unknown,
    file_name,
    subdir,
    duplicate_package,
    pip_package,
    source_package,
)
