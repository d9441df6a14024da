"""From a base and a small `environment.yml` to the lock of another repository.

Every package of the base is in the new lock exactly as it is in the base's, byte for byte, but for those that are
allowed to move; only what comes on top is solved. The lock says which base it was built on, with its hash, so that
`check` can hold it against that base and `update --base` can move it to a newer one.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from torchlocks import __version__
from torchlocks.core.errors import BaseLockError, EnvironmentFileError, LockfileError, NoSuchRowError, TorchlocksError
from torchlocks.core.files import write_changed
from torchlocks.core.progress import Progress
from torchlocks.extend.base import Base, Built, is_built_on_base, must_hold_no_secret, relative_path, virtual_packages
from torchlocks.extend.requested import Wishes
from torchlocks.extend.solve import Question, answer, base_records
from torchlocks.lockfile.fields import channel_urls
from torchlocks.lockfile.formats import (
    CONDA_LOCK,
    PIXI,
    explicit_name,
    parse_lock,
    read_lock,
    write_explicit,
    write_pixi,
)
from torchlocks.lockfile.models import Lock
from torchlocks.lockfile.pixi import read_pixi_records
from torchlocks.solve.repodata import RecordSource

if TYPE_CHECKING:
    from conda_lock.lockfile.v2prelim.models import LockedDependency
    from rattler import RepoDataRecord


@dataclass(frozen=True, kw_only=True)
class ExtendOptions:
    """How to build on a base.

    `platforms` are those to lock, none for all that the environment file names, or the base has. `moves` names base
    packages that may move. `channels` stand in for the environment file's. With `stay`, additions stay as the lock that
    is there has them, where they can.
    """

    source: RecordSource
    platforms: tuple[str, ...] = ()
    moves: tuple[str, ...] = ()
    channels: tuple[str, ...] | None = None
    stay: bool = False


@dataclass(frozen=True, kw_only=True)
class Extended:
    """What was done: the lock as it is now and as it was before (None for a first one), and which files changed."""

    path: Path
    base: Base
    lock: Lock
    before: Lock | None
    changed: tuple[str, ...]


def lock_file(output: Path) -> Path:
    """The conda-lock.yml that is meant by a path to it or to its folder.

    Raises LockfileError for another file name: the files beside it (pixi.lock, conda-PLATFORM.lock) have one name only.
    """
    if output.name == CONDA_LOCK:
        return output
    if output.suffix in (".yml", ".yaml", ".lock"):
        raise LockfileError(
            f"A lock on a base is called {CONDA_LOCK}; the files that other clients read stand beside it.",
            where=str(output),
            fix=f"name a folder for it, such as {output.with_suffix('').name}/",
        )
    return output / CONDA_LOCK


def extend(wishes: Wishes, base: Base, output: Path, options: ExtendOptions, progress: Progress) -> Extended:
    """Lock `wishes` on `base` for each platform, and write the lock `output` (a conda-lock.yml) with its exports.

    Nothing is written unless every platform was solved. Raises ContradictionError when wishes and base cannot go
    together, SolveError when a wish cannot be had at all, NoSuchRowError for a platform that the base does not have,
    BaseLockError for a package to move that the base does not hold, and LockfileError when other files are in the way.
    """
    from torchlocks.extend.conflict import brought_by_base, explain

    before = _own_lock(output)
    _must_not_be_itself(base, output)
    platforms = _platforms(wishes, base, options)
    _must_be_in_base(options.moves, base, platforms)
    channels = all_channels(base, wishes.channels if options.channels is None else options.channels)
    prefer = _records_before(output) if options.stay and before is not None else {}
    solved: dict[str, tuple[Question, list[RepoDataRecord]]] = {}
    failed: dict[str, tuple[Question, TorchlocksError]] = {}
    with progress.task(f"Solving on {base.name.text}", total=len(platforms)) as task:
        for platform in platforms:
            question = Question(
                base=base,
                platform=platform,
                channels=channels,
                wishes=wishes.on(platform),
                records=base_records(base, platform, options.source),
                moves=frozenset(options.moves),
                prefer=tuple(prefer.get(platform, ())),
                source=options.source,
            )
            if (brought := brought_by_base(question)) is not None:
                raise brought
            try:
                solved[platform] = question, answer(question)
            except TorchlocksError as error:
                if not error.details:
                    raise
                failed[platform] = question, error
            task.advance(1, note=platform)
    if failed:
        (question, first), *others = failed.values()
        raise explain(question, first, [other for other, _ in others], progress)
    built = Built(
        base=base.name,
        sha256=base.lock.sha256,
        moves=tuple(sorted(options.moves)),
        channels=options.channels,
        environment=relative_path(wishes.path, output.parent),
    )
    files = _formats(wishes, built, output, solved)
    changed = _write(output.parent, files, before)
    return Extended(path=output, base=base, lock=read_lock(output), before=before, changed=changed)


def all_channels(base: Base, added: Sequence[str]) -> tuple[str, ...]:
    """The base's channels, which come first, and those added that are not among them.

    Raises BaseLockError for an added one with a secret in its URL: the lock would hold it.
    """
    known = {url for channel in base.lock.channels for url in channel_urls(channel)}
    new = [channel for channel in added if not known.issuperset(channel_urls(channel))]
    for channel in new:
        must_hold_no_secret(channel)
    return (*base.lock.channels, *dict.fromkeys(new))


def input_hash(wishes: Wishes, like: Lock, platform: str, channels: tuple[str, ...]) -> str:
    """conda-lock's hash of what a lock on a base is made from on a platform: wishes, channels, virtual packages.

    `like` is a lock that was solved with these virtual packages: the base, or the lock on it. Raises
    EnvironmentFileError for a match spec that conda-lock does not read.
    """
    from torchlocks.locking.cell import content_hash

    try:
        return content_hash(wishes.rendered(platform, channels), platform, virtual_packages(like, platform))
    except TorchlocksError:
        raise
    except Exception as error:  # conda-lock has no common base class for what it may raise here
        raise EnvironmentFileError(f"conda-lock cannot read the file: {error}", where=str(wishes.path)) from error


def _must_not_be_itself(base: Base, output: Path) -> None:
    if not base.name.is_path:
        return
    named = (output.parent / base.name.text).resolve()
    if output.resolve() in (named, named / CONDA_LOCK):
        raise BaseLockError(
            "A lock cannot be built on itself.",
            where=str(output),
            fix="name the base, or another folder for the lock with --output",
        )


# --- what is asked for ------------------------------------------------------------------------------


def _platforms(wishes: Wishes, base: Base, options: ExtendOptions) -> tuple[str, ...]:
    wanted = options.platforms or wishes.platforms or base.lock.platforms
    for platform in wanted:
        if platform not in base.lock.platforms:
            raise NoSuchRowError(
                f"The base {base.name.text} does not exist for {platform}.",
                where="--platform, or the lock's own" if options.platforms else f"{wishes.path}: platforms",
                fix=f"name some of: {', '.join(base.lock.platforms)}\nor another base",
            )
    return tuple(sorted(dict.fromkeys(wanted)))


def _must_be_in_base(moves: Sequence[str], base: Base, platforms: Sequence[str]) -> None:
    held = {package.name for platform in platforms for package in base.lock.packages[platform]}
    for name in moves:
        if name not in held:
            near = difflib.get_close_matches(name, held, n=3)
            raise BaseLockError(
                f"The base holds no package called {name!r}, so it cannot move.",
                where=f"--allow-move {name}",
                fix=f"did you mean {' or '.join(near)}?" if near else "additions need no permission: leave it out",
            )


def _own_lock(output: Path) -> Lock | None:
    """The lock on a base that is there already. Raises LockfileError when files of somebody else are in the way."""
    theirs = [output, output.with_name(PIXI), *sorted(output.parent.glob("conda-*.lock"))]
    there = [path for path in theirs if path.exists()]
    if not there:
        return None
    with suppress(TorchlocksError):
        lock = read_lock(output)
        if is_built_on_base(lock.metadata):
            return lock
    raise LockfileError(
        f"{there[0].name} is there already, and it is no lock that was built on a base: it is left as it is.",
        where=str(there[0]),
        fix="name another folder with --output, or move away " + ", ".join(path.name for path in there),
    )


def _records_before(output: Path) -> Mapping[str, list[RepoDataRecord]]:
    """The complete records of the lock that is there; none without its pixi.lock: additions are then solved anew."""
    try:
        return read_pixi_records(output.with_name(PIXI).read_bytes())
    except OSError:
        return {}


# --- what is written --------------------------------------------------------------------------------


def _formats(
    wishes: Wishes, built: Built, output: Path, solved: Mapping[str, tuple[Question, list[RepoDataRecord]]]
) -> dict[str, str]:
    """The texts of the lock and its exports, by file name."""
    import conda_lock.lockfile as conda_lock_files
    from conda_lock.lockfile.v1.models import LockMeta
    from conda_lock.lockfile.v2prelim.models import Lockfile
    from conda_lock.models.channel import Channel

    metadata = {
        "torchlocks": __version__,
        "conda-lock": version("conda-lock"),
        "solver": f"py-rattler {version('py-rattler')}",
        **built.metadata(),
    }
    packages: list[LockedDependency] = []
    hashes: dict[str, str] = {}
    base: Base | None = None
    entries: dict[tuple[str, str], LockedDependency] = {}
    channels: tuple[str, ...] = ()
    for platform, (question, records) in solved.items():
        if base is None:
            base, channels = question.base, question.channels
            entries = _base_entries(base)
        packages += [entries.get((platform, record.url)) or _entry(record, platform) for record in records]
        hashes[platform] = input_hash(wishes, base.lock, platform, channels)
        metadata[f"virtual-packages {platform}"] = " ".join(sorted(base.lock.virtual_packages[platform]))
        metadata[f"records {platform}"] = question.source.identity(channels, [platform, "noarch"])
    content = Lockfile(
        package=packages,
        metadata=LockMeta(
            content_hash=hashes,
            channels=[Channel.from_string(channel) for channel in channels],
            platforms=list(hashes),
            sources=[built.environment],
            custom_metadata=dict(sorted(metadata.items())),
        ),
    )
    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        path = Path(scratch) / CONDA_LOCK
        conda_lock_files.write_conda_lock_file(content, path, metadata_choices=None, include_help_text=False)
        body = path.read_text(encoding="utf-8")
    text = _HEADER.format(name=wishes.name, base=built.base.text, environment=built.environment, file=CONDA_LOCK) + body
    lock = parse_lock(text.encode(), output)
    virtual = {platform: metadata[f"virtual-packages {platform}"].split() for platform in hashes}
    files = {CONDA_LOCK: text}
    files[PIXI] = write_pixi({platform: records for platform, (_, records) in solved.items()}, channels, virtual)
    for platform in hashes:
        files[explicit_name(platform)] = write_explicit(lock, platform)
    return files


_HEADER = """\
# The lock of {name}: the base {base} as it is, and on top of it what {environment} asks for.
# Written by torchlocks with conda-lock; do not edit it, change {environment} and run `torchlocks extend` again.
#
# Install it with torchlocks (`torchlocks install {file} PREFIX`) or with conda-lock
# (`conda-lock install -p PREFIX {file}`). conda, mamba and micromamba take the explicit file
# conda-PLATFORM.lock beside this one (`conda create -p PREFIX --file conda-PLATFORM.lock`); given this
# file, plain conda makes an empty environment without a word. pixi takes pixi.lock.
"""


def _base_entries(base: Base) -> dict[tuple[str, str], LockedDependency]:
    """The base's own entries, as conda-lock reads them, by platform and URL."""
    import conda_lock.lockfile as conda_lock_files
    from pydantic import ValidationError

    with tempfile.TemporaryDirectory(prefix="torchlocks-") as scratch:
        path = Path(scratch) / CONDA_LOCK
        path.write_bytes(base.data)
        try:
            content = conda_lock_files.parse_conda_lock_file(path)
        except (ValidationError, ValueError) as error:
            raise BaseLockError(
                "conda-lock cannot read the base.", where=base.name.text, details=str(error).splitlines()[0]
            ) from error
    return {(entry.platform, entry.url): entry for entry in content.package}


def _entry(record: RepoDataRecord, platform: str) -> LockedDependency:
    """The entry of an addition, as conda-lock makes it: specs of one name are merged, the build is the file name's."""
    from conda_lock.interfaces.vendored_conda import MatchSpec
    from conda_lock.lockfile.v2prelim.models import HashModel, LockedDependency

    specs: dict[str, list[MatchSpec]] = {}
    for depends in record.depends:
        spec = MatchSpec(depends)
        specs.setdefault(spec.name, []).append(spec)
    merged = {name: found[0] if len(found) == 1 else MatchSpec.merge(found)[0] for name, found in specs.items()}
    return LockedDependency(
        name=record.name.normalized,
        version=str(record.version),
        manager="conda",
        platform=platform,
        dependencies={name: spec.version.spec_str if spec.version else "" for name, spec in merged.items()},
        url=record.url,
        hash=HashModel(
            md5=record.md5.hex() if record.md5 else None, sha256=record.sha256.hex() if record.sha256 else None
        ),
        categories={"main"},
    )


def _write(folder: Path, files: Mapping[str, str], before: Lock | None) -> tuple[str, ...]:
    """Write what changed, each file whole; remove the explicit files of platforms that the lock had and has no more."""
    try:
        changed = write_changed(folder, files)
        for platform in before.platforms if before else ():
            if explicit_name(platform) not in files and (folder / explicit_name(platform)).is_file():
                (folder / explicit_name(platform)).unlink()
                changed.append(explicit_name(platform))
    except OSError as error:
        raise LockfileError(
            f"The lock cannot be written: {error.strerror}.",
            where=str(error.filename or folder),
            fix="see that this folder can be written to, or name another with --output",
        ) from error
    return tuple(changed)
