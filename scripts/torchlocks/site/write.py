"""Write the catalogue as a static site, from the matrix, the locks, the reports, git and `docs/`.

`build/site` contains pages, `index.json` with its schema, the lockfiles, one style sheet and two scripts.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchlocks.core.disk import is_disk_full
from torchlocks.core.errors import DiskFullError, TorchlocksError
from torchlocks.core.layout import Layout
from torchlocks.core.progress import Progress
from torchlocks.evidence.model import evidence_json
from torchlocks.export.clients import CLIENTS
from torchlocks.export.licences import KINDS, MEANING, read_licence
from torchlocks.pages.draw import Part, meter, shares
from torchlocks.pages.html import asset, templates
from torchlocks.site.catalogue import Catalogue, Cell, read_catalogue, refuse_secrets
from torchlocks.site.data import data_script
from torchlocks.site.docs import DocPage, read_docs
from torchlocks.site.history import History, Step, committed_revision, read_history
from torchlocks.site.index import index_json, index_schema
from torchlocks.site.pictures import chains_picture, installed_picture, shown_needs, size_picture
from torchlocks.site.proof import aged, environment_badge, timeline
from torchlocks.verify.report_html import report_html, tier_rows

if TYPE_CHECKING:
    from markupsafe import Markup

    from torchlocks.lockfile.models import LockedPackage

#: How a state of verification is shown: a mark, a word, and the class of its colour.
STATES: Mapping[str, tuple[str, str, str]] = {
    "verified": ("✓", "verified", "good"),
    "build-verified": ("◐", "build verified, no GPU", "warn"),
    "partial": ("◐", "partly verified", "warn"),
    "failed": ("✗", "failed", "bad"),
    "local": ("◇", "verified: local channel build", "warn"),
    "local-failed": ("✗", "local channel build failed", "bad"),
    "outdated": ("○", "verified before it changed", "muted"),
    "none": ("○", "not verified here", "muted"),
}

ON_A_PAGE = 150
"""Environments on one page of the list, so that none is above 1 MB however many there are."""

MOST_TABLES = 80
"""Tables of versions on the page of changes; the pages of the environments have all."""

_MOVES = ("added", "removed", "upgraded", "downgraded", "rebuilt", "replaced")


@dataclass(frozen=True, kw_only=True)
class Written:
    """The written site: the first page, and bytes of pages (with style, scripts and index) and of all other files."""

    start: Path
    pages: int
    page_bytes: int
    other_bytes: int


@dataclass(frozen=True)
class PackageRow:
    """A package on its environment's page; `licence_kind` is one of `licences.KINDS`."""

    package: LockedPackage
    licence_kind: str
    bar: Markup
    installed: int | None


def write_site(layout: Layout, progress: Progress) -> Written:
    """Write `build/site` and replace the existing one atomically.

    Raises what reading the matrix and the locks raises, LockfileError for credentials in them, and DiskFullError or
    TorchlocksError when it cannot be written.
    """
    with progress.task("Reading matrix, locks and reports"):
        catalogue = read_catalogue(layout, revision=committed_revision(layout.root))
        refuse_secrets(layout, catalogue)
        now: dict[str, dict[str, Sequence[LockedPackage]]] = {}
        for cell in catalogue.cells:
            now.setdefault(cell.target.env, {})[cell.target.platform] = cell.packages
        history = read_history(layout, now)
    with progress.task("Writing pages"):
        files = site_files(catalogue, history, read_docs(layout.root / "docs"))
        return _put(layout, catalogue, files)


def site_files(catalogue: Catalogue, history: History, docs: Sequence[DocPage]) -> dict[str, str]:
    """Return every text of the site by path, without the lockfiles, which are copied."""
    render = partial(_page, catalogue=catalogue, docs=docs)
    files = shared_files(catalogue, history, docs)
    for cell in catalogue.cells:
        steps = history.steps.get(f"{cell.target.env}/{cell.target.platform}", ())
        siblings = [other for other in catalogue.cells if other.target.env == cell.target.env and other is not cell]
        files[cell.entry.page] = render(
            "environment.html",
            cell=cell,
            siblings=siblings,
            packages=package_rows(cell),
            size_picture=size_picture(cell),
            installed_picture=installed_picture(cell),
            chains=chains_picture(cell),
            needs=shown_needs(cell),
            licences=_licence_counts(cell),
            tiers=tier_rows(cell.verdict) if cell.verdict else (),
            moments=timeline(steps, cell.proofs),
            steps=[_told_step(step, f"h{number}") for number, step in enumerate(steps)],
            note=history.note,
            here="home",
            root="../../",
        )
        files |= {f"evidence/{proof.record.name}": evidence_json(proof.record) for proof in cell.proofs.proofs}
        if cell.verdict:
            files[f"reports/{cell.target.env}.html"] = report_html(cell.verdict, f"../{cell.entry.page}")
    for row in catalogue.local:
        if row.verdict:
            files[f"reports/{row.target.env}.html"] = report_html(row.verdict, "../index.html#wheels")
    for env in catalogue.index.environments:
        mine = [cell for cell in catalogue.cells if cell.target.env == env.name]
        verifications = [cell.entry.verification for cell in mine]
        files[f"badges/{env.name}.svg"] = environment_badge(env.name, verifications, [cell.proofs for cell in mine])
    for doc in docs:
        files[f"docs/{doc.slug}.html"] = render("doc.html", doc=doc, here="docs", root="../")
    return files


def shared_files(catalogue: Catalogue, history: History, docs: Sequence[DocPage] = ()) -> dict[str, str]:
    """Return the texts that are about all environments, by path: pages, scripts, data and `index.json`."""
    render = partial(_page, catalogue=catalogue, docs=docs)
    changes = _all_changes(catalogue, history)
    files = {
        "style.css": asset("style.css") + asset("site.css"),
        "site.js": asset("site.js"),
        "data.js": data_script(catalogue),
        "index.json": index_json(catalogue.index),
        "index.schema.json": index_schema(),
        "compare.html": render("compare.html", here="compare"),
        "packages.html": render("packages.html", here="packages"),
        "changes.html": render("changes.html", changes=changes, most=MOST_TABLES, note=history.note, here="changes"),
    }
    environments = sorted(catalogue.index.environments, key=lambda env: env.variant_of is not None)
    starts = range(0, max(1, len(environments)), ON_A_PAGE)
    names = ["index.html" if not start else f"environments-{start // ON_A_PAGE + 1}.html" for start in starts]
    pages = [
        (name, start + 1, min(start + ON_A_PAGE, len(environments))) for name, start in zip(names, starts, strict=True)
    ]
    shown: dict[str, Any] = {
        "platforms": list(dict.fromkeys(cell.target.platform for cell in catalogue.cells)),
        "by_key": {(cell.target.env, cell.target.platform): cell for cell in catalogue.cells},
        "local": catalogue.local,
        "pages": pages,
        "here": "home",
    }
    for name, start in zip(names, starts, strict=True):
        template = "home.html" if not start else "environments.html"
        rows = environments[start : start + ON_A_PAGE]
        files[name] = render(template, rows=rows, current=name, **shown)
    return files


def _page(template: str, *, catalogue: Catalogue, docs: Sequence[DocPage], root: str = "", **values: Any) -> str:
    return (
        templates()
        .get_template(template)
        .render(
            index=catalogue.index,
            cells=catalogue.cells,
            docs=docs,
            root=root,
            states=STATES,
            clients=CLIENTS,
            aged=aged,
            **values,
        )
    )


def package_rows(cell: Cell) -> tuple[PackageRow, ...]:
    """Return the packages, the largest first; bars are relative to the largest."""
    ordered = sorted(cell.packages, key=lambda package: (-(package.size or 0), package.name))
    largest = max((package.size or 0 for package in ordered), default=0)
    return tuple(
        PackageRow(
            package,
            read_licence(package.license).kind,
            meter(package.size or 0, largest),
            cell.installed.get(package.name) if cell.installed and cell.installed_from_lock else None,
        )
        for package in ordered
    )


def _licence_counts(cell: Cell) -> list[tuple[str, str, int]]:
    """Return each kind of licence, its meaning, and the number of packages."""
    kinds = [read_licence(package.license).kind for package in cell.packages]
    return [(kind, MEANING[kind], kinds.count(kind)) for kind in KINDS if kind in kinds]


@dataclass(frozen=True)
class _ToldStep:
    """A step of the history with a drawing of its changes."""

    step: Step
    picture: Markup | None


def _told_step(step: Step, prefix: str) -> _ToldStep:
    counts = [(move, sum(change.move == move for change in step.changes)) for move in _MOVES]
    parts = [Part(move, count, str(count)) for move, count in counts if count]
    return _ToldStep(step, shares(parts, "Packages that changed", prefix) if parts else None)


@dataclass(frozen=True)
class _CellChanges:
    """The states of one cell's lock, oldest first, as a table of versions: name to versions, None if absent."""

    cell: Cell
    steps: tuple[Step, ...]
    versions: Mapping[str, tuple[str | None, ...]]
    latest: _ToldStep | None


def _all_changes(catalogue: Catalogue, history: History) -> list[_CellChanges]:
    found: list[_CellChanges] = []
    for number, cell in enumerate(catalogue.cells):
        newest = history.steps.get(f"{cell.target.env}/{cell.target.platform}", ())[:6]
        steps = tuple(reversed(newest))
        names = dict.fromkeys(name for step in steps for name in step.versions)
        versions = {name: tuple(step.versions.get(name) for step in steps) for name in names}
        # A drawing for each table, and the page has no more tables than that.
        drawn = len(newest) > 1 and sum(len(each.steps) > 1 for each in found) < MOST_TABLES
        latest = _told_step(newest[0], f"c{number}") if drawn else None
        found.append(_CellChanges(cell, steps, versions, latest))
    return found


def _put(layout: Layout, catalogue: Catalogue, files: Mapping[str, str]) -> Written:

    from filelock import FileLock

    target = layout.build / "site"
    try:
        layout.build.mkdir(parents=True, exist_ok=True)
        with FileLock(layout.build / ".site.lock"):
            _put_alone(layout, catalogue, files, target)
            found = [path for path in target.rglob("*") if path.is_file()]
            sizes = {path.relative_to(target).as_posix(): path.stat().st_size for path in found}
    except OSError as error:
        kind = DiskFullError if is_disk_full(error) else TorchlocksError
        raise kind(
            f"The site cannot be written: {error.strerror}.", where=str(target), fix="make room, or make it writable"
        ) from error
    pages = {
        name: count
        for name, count in sizes.items()
        if not name.startswith(("locks/", "reports/", "evidence/", "badges/"))
    }
    return Written(
        start=target / "index.html",
        pages=sum(name.endswith(".html") for name in sizes),
        page_bytes=sum(pages.values()),
        other_bytes=sum(sizes.values()) - sum(pages.values()),
    )


def _put_alone(layout: Layout, catalogue: Catalogue, files: Mapping[str, str], target: Path) -> None:
    """Write everything beside `target`, and rename it. The caller must hold the lock."""
    beside = layout.build / ".site.new"
    copied = {file.path for cell in catalogue.cells for file in cell.entry.files}
    shutil.rmtree(beside, ignore_errors=True)
    try:
        for name, text in files.items():
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            (beside / name).write_text(text, encoding="utf-8", newline="")
        for name in sorted(copied):
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(layout.root / name, beside / name)
        for name, text in _manifests(catalogue).items():
            (beside / name).write_text(text, encoding="utf-8", newline="")
        shutil.rmtree(target, ignore_errors=True)
        beside.replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _manifests(catalogue: Catalogue) -> dict[str, str]:
    """Return a `pixi.toml` for each pixi.lock, which pixi requires beside it."""
    from torchlocks.export.environment import LockedTarget
    from torchlocks.export.formats import FORMATS, export
    from torchlocks.export.render import Place

    by_env: dict[str, list[LockedTarget]] = {}
    for cell in catalogue.cells:
        target = cell.target
        by_env.setdefault(target.env, []).append(
            LockedTarget(
                name=target.env, platform=target.platform, lock=cell.lock, packages=cell.packages, target=target
            )
        )
    return {
        f"locks/{env}/pixi.toml": export(FORMATS["pixi"], locked, Place(prefix=env)) for env, locked in by_env.items()
    }
