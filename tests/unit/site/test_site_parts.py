"""The parts of the site: verdicts bound to locks, drawings, documentation, and the history that git knows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sample_reports import check, verdict
from torchlocks.core.layout import Layout
from torchlocks.lockfile.formats import read_lock
from torchlocks.pages.draw import Node, Part, layered, shares
from torchlocks.site.catalogue import read_catalogue
from torchlocks.site.docs import page_link, read_docs, render_page
from torchlocks.site.history import committed_revision, read_history, revision
from torchlocks.site.index import Index, index_json, index_schema
from torchlocks.verify.report import write_reports
from torchsuite.tier_names import TIERS

LAYOUT = Layout(Path(__file__).parents[3])


@pytest.fixture
def checkout(tmp_path: Path) -> Layout:
    """The matrix with two of its environments, in a folder of their own."""
    layout = Layout(tmp_path / "checkout")
    layout.root.mkdir()
    shutil.copy(LAYOUT.matrix, layout.root)
    for env in ("cpu", "gpu-cu118"):
        shutil.copytree(LAYOUT.locks / env, layout.locks / env)
    return layout


def report(layout: Layout, **changed: object) -> None:
    """Write a report on the lock of gpu-cu118 in `layout`, but for what is changed."""
    sha256 = read_lock(layout.locks / "gpu-cu118" / "conda-lock.yml").sha256
    fields = {"env": "gpu-cu118", "accelerator": "cuda", "cuda": "11.8", "lock_sha256": sha256}
    write_reports(
        verdict(check("a", tier="gpu")).model_copy(update={**fields, "state": "gpu", **changed}), layout.reports
    )


LOCAL = {"lock_sha256": "0" * 64, "channels": ("file:///build/channel",)}
BROKEN = {"ok": False, "state": "failed"}


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({}, "verified"),
        ({"state": "cuda-build"}, "build-verified"),
        ({"state": "partial"}, "partial"),
        (BROKEN, "failed"),
        ({"ok": False, "state": "nothing"}, "failed"),
        ({"lock_sha256": "0" * 64}, "outdated"),
        (LOCAL, "local"),
        ({**LOCAL, **BROKEN}, "local-failed"),
        ({"platform": "win-64"}, "none"),
    ],
)
def test_only_a_report_on_this_very_lock_verifies_it(checkout: Layout, changed: dict[str, object], state: str) -> None:
    shutil.rmtree(checkout.locks / "cpu")
    report(checkout, **changed)
    (cell,) = read_catalogue(checkout).cells
    assert cell.entry.verification.state == state
    assert (cell.entry.verification.report is None) == (state == "none")


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_report_that_cannot_be_read_proves_nothing_and_is_named(checkout: Layout, text: str) -> None:
    checkout.reports.mkdir()
    (checkout.reports / "cpu.json").write_text(text, encoding="utf-8")
    told = {cell.target.env: cell.entry.verification for cell in read_catalogue(checkout).cells}
    assert {each.state for each in told.values()} == {"none"}
    assert told["cpu"].text == "reports/cpu.json cannot be read"
    assert told["gpu-cu118"].text == "there is no report on this lock"


def test_rows_without_a_lock_are_named(checkout: Layout) -> None:
    index = read_catalogue(checkout).index
    assert [env.name for env in index.environments] == ["cpu", "gpu-cu118"]
    assert "gpu-cu126/win-64" in index.not_locked


def test_builds_of_the_local_channel_have_rows_of_their_own(checkout: Layout) -> None:
    local = {"env": "gpu-cu130", "accelerator": "cuda", "cuda": "13.0", "state": "gpu", **LOCAL}
    write_reports(verdict(check("a", tier="gpu")).model_copy(update=local), checkout.reports)
    rows = {(row.target.env, row.target.platform): row.verdict for row in read_catalogue(checkout).local}
    built = rows.pop(("gpu-cu130", "linux-64"))
    assert built is not None
    assert built.state == "gpu"
    assert set(rows.values()) == {None}


def test_the_index_reads_back_and_has_a_schema(checkout: Layout) -> None:
    index = read_catalogue(checkout, revision="abc").index
    assert Index.model_validate_json(index_json(index)) == index
    schema = json.loads(index_schema())
    written = json.loads(index_json(index))
    assert set(written) == set(schema["properties"])
    entry = written["environments"][1]["platforms"][0]
    assert set(entry) == set(schema["$defs"]["IndexPlatform"]["properties"])
    assert entry["cuda"]["drivers"]["linux"]["floor"] == "450.80.02"
    assert entry["download_bytes"] > 2e9


# --- Drawings -----------------------------------------------------------------------------------------


def edges_drawn(svg: str) -> list[tuple[float, float]]:
    """Where each line of a graph begins and ends, from left to right."""
    return [(float(a), float(b)) for a, b in re.findall(r'class="edge" d="M([\d.]+) .*? ([\d.]+) [\d.]+"', svg)]


@given(st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 7), max_size=5), max_size=8))
def test_a_graph_is_drawn_whole_and_from_left_to_right(edges: dict[int, list[int]]) -> None:
    keys = {key: list(dict.fromkeys(e for e in edges.get(key, []) if e != key)) for key in range(8)}
    graph = {f"p{key}": [f"p{end}" for end in ends] for key, ends in keys.items()}
    svg = layered([Node(key, f"title-{key}", "<note>") for key in graph], graph, "p0", "a graph")
    ElementTree.fromstring(svg)
    reached = ["p0"]
    for key in reached:
        reached += [end for end in graph[key] if end not in reached]
    assert sorted(re.findall(r"title-(p\d)", svg)) == sorted(reached)
    assert all(start < end for start, end in edges_drawn(svg))
    assert len(edges_drawn(svg)) >= len(reached) - 1


def test_an_edge_that_follows_from_others_is_left_out() -> None:
    graph = {"a": ["b", "c"], "b": ["c"], "c": []}
    svg = layered([Node(key, key, "") for key in graph], graph, "a", "a graph")
    assert len(edges_drawn(svg)) == 2


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=9))
def test_every_share_is_named_with_its_amount(amounts: list[float]) -> None:
    parts = [Part(f"part {number} <&>", amount, f"{number} kg") for number, amount in enumerate(amounts)]
    svg = shares(parts, "shares", "x")
    for number in range(len(amounts)):
        assert f"part {number} &lt;&amp;&gt;: {number} kg" in svg
    widths = [float(width) for width in re.findall(r'<rect x="[\d.]+" width="([\d.]+)"', svg)]
    assert len(widths) == len(amounts)
    assert sum(widths) <= 1000 + len(amounts)


def test_the_parts_of_a_whole_run_can_be_distinguished() -> None:
    svg = shares([Part(tier, 1, "1 s") for tier in (*TIERS, "between")], "time", "x")
    patterns = dict(re.findall(r'<pattern id="(x\d+)"[^>]*>(.*?)</pattern>', svg))
    assert len(set(patterns.values())) == len(patterns) == len(TIERS) + 1
    assert set(re.findall(r'height="34" fill="url\(#(x\d+)\)"', svg)) == set(patterns)


# --- Documentation ------------------------------------------------------------------------------------


def test_links_are_for_the_site() -> None:
    page = render_page(
        "a", "# A *title*\n\n[next](b.md#x), [table](../matrix.yml), [web](https://a.b/c.md), [here](#x)\n\n## X\n"
    )
    assert 'href="b.html#x"' in page.html
    assert "<em>table</em>" in page.html
    assert "matrix.yml" not in page.html
    assert 'href="https://a.b/c.md"' in page.html
    assert page.headings == (("x", "X"),)
    assert page.title == "A title"
    assert page_link("../README.md") is None


def test_html_in_a_page_is_text() -> None:
    assert "<script>" not in render_page("a", "# a\n\n<script>alert(1)</script>\n\n[x](javascript:alert(1))").html
    assert "javascript:" not in re.findall(r'href="([^"]*)"', render_page("a", "[x](javascript:alert(1))").html)


def test_two_headings_of_one_name_have_two_identifiers() -> None:
    assert [anchor for anchor, _ in render_page("a", "## One, two\n\n## One two\n").headings] == [
        "one-two",
        "one-two-1",
    ]


def test_a_new_page_appears_without_another_edit(tmp_path: Path) -> None:
    for slug in ("zebra", "get-started", "anchor"):
        (tmp_path / f"{slug}.md").write_text(f"# {slug}\n", encoding="utf-8")
    assert [page.slug for page in read_docs(tmp_path)] == ["get-started", "anchor", "zebra"]
    assert read_docs(tmp_path / "absent") == ()


def test_every_page_of_this_repository_has_a_title() -> None:
    pages = read_docs(LAYOUT.root / "docs")
    assert len(pages) >= 6
    for page in pages:
        assert page.title != page.slug
        assert str(page.html).count("<h1") == 1


# --- History ------------------------------------------------------------------------------------------


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


def test_history_is_that_of_git(checkout: Layout) -> None:
    lock = checkout.locks / "gpu-cu118" / "conda-linux-64.lock"
    newest = lock.read_text(encoding="utf-8")
    older = "".join(line for line in newest.splitlines(keepends=True) if "/cudnn-" not in line)
    git(checkout.root, "init", "-q")
    for text, subject in ((older, "First"), (older + "\n# a note\n", "A note alone"), (newest, "Add cudnn")):
        lock.write_text(text, encoding="utf-8")
        git(checkout.root, "add", "-A")
        git(checkout.root, "commit", "-qm", subject)
    now = {
        cell.target.env: {cell.target.platform: cell.packages}
        for cell in read_catalogue(checkout).cells
        if cell.target.env == "gpu-cu118"
    }
    history = read_history(checkout, now)
    steps = history.steps["gpu-cu118/linux-64"]
    assert [(step.commit.subject, step.first) for step in steps] == [("Add cudnn", False), ("First", True)]
    assert [(change.name, change.move) for change in steps[0].changes] == [("cudnn", "added")]
    assert steps[0].versions["pytorch"] == "2.5.1"
    assert history.note is None
    head = revision(checkout.root)
    assert head
    assert head.startswith(steps[0].commit.hash)
    assert committed_revision(checkout.root) == head
    lock.write_text(older, encoding="utf-8")
    # These locks are those of no commit, and the site names none.
    assert (revision(checkout.root), committed_revision(checkout.root)) == (head, None)
    git(checkout.root, "commit", "-qam", "Remove it")
    steps = read_history(checkout, now).steps["gpu-cu118/linux-64"]
    assert steps[0].commit.subject == "not committed yet"


def test_without_git_the_history_is_reported(checkout: Layout) -> None:
    history = read_history(checkout, {})
    assert not history.steps
    assert "no git repository" in str(history.note)


def test_the_commits_of_somebody_elses_repository_are_not_ours(checkout: Layout) -> None:
    git(checkout.root.parent, "init", "-q")
    git(checkout.root.parent, "commit", "-q", "--allow-empty", "-m", "Theirs")
    assert revision(checkout.root) is None


def test_a_clone_without_all_commits_is_reported(checkout: Layout, tmp_path: Path) -> None:
    git(checkout.root, "init", "-q")
    git(checkout.root, "add", "-A")
    git(checkout.root, "commit", "-qm", "First")
    git(checkout.root, "commit", "-q", "--allow-empty", "-m", "Second")
    git(tmp_path, "clone", "-q", "--depth=1", checkout.root.as_uri(), "shallow")
    assert "does not have all commits" in str(read_history(Layout(tmp_path / "shallow"), {}).note)
