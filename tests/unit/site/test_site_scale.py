"""A catalogue of 1,000 environments: the bytes of its pages, what the search draws, and picking from it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from large_catalogue import enlarged, moved

from torchlocks.core.layout import Layout
from torchlocks.site import write
from torchlocks.site.catalogue import Catalogue, read_catalogue
from torchlocks.site.history import History
from torchlocks.site.index import Index
from torchlocks.site.pick import Machine, pick
from torchlocks.site.write import shared_files

LAYOUT = Layout(Path(__file__).parents[3])
SLOW = bool(os.environ.get("TORCHLOCKS_SLOW"))
COUNT = 1000 if SLOW else 75
ENVIRONMENTS = ("cpu", "gpu-cu129") if SLOW else ("gpu-cu129",)
"""The environments that are copied; those for CUDA have packages that the search finds more than 200 times."""
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    layout = Layout(tmp_path_factory.mktemp("few") / "checkout")
    layout.root.mkdir()
    shutil.copy(LAYOUT.matrix, layout.root)
    for env in ENVIRONMENTS:
        shutil.copytree(LAYOUT.locks / env, layout.locks / env)
    return enlarged(read_catalogue(layout), COUNT)


@pytest.fixture(scope="module")
def files(catalogue: Catalogue) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        if not SLOW:
            patch.setattr(write, "ON_A_PAGE", 30)
        return shared_files(catalogue, moved(catalogue))


def test_no_page_is_above_1_mb_however_many_environments_there_are(files: dict[str, str], catalogue: Catalogue) -> None:
    # What is about all of them grows with their number, and is below the limit for 1,000 of them.
    allowed = 1e6 * COUNT / 1000
    pages = {name: len(text.encode()) for name, text in files.items() if name.endswith(".html")}
    assert max(pages.values()) < 1e6, pages
    assert pages["compare.html"] < allowed
    # The packages themselves, once, and their numbers for each cell.
    assert len(files["data.js"].encode()) < 100_000 + 800 * len(catalogue.cells)


def test_locks_that_never_changed_do_not_make_a_page_large_either(catalogue: Catalogue) -> None:
    still = {key: steps[-1:] for key, steps in moved(catalogue).steps.items()}
    page = shared_files(catalogue, History(steps=still, note=None))["changes.html"]
    assert len(page.encode()) < 1e6
    assert set(re.findall(r'href="(env/[^"]+)"', page)) == {cell.entry.page for cell in catalogue.cells}


def test_every_environment_is_on_a_page_that_the_first_one_leads_to(
    files: dict[str, str], catalogue: Catalogue
) -> None:
    others = set(re.findall(r'href="(environments-\d+\.html)"', files["index.html"]))
    assert others
    linked = {page for name in ("index.html", *others) for page in re.findall(r'href="(env/[^"]+)"', files[name])}
    assert linked == {cell.entry.page for cell in catalogue.cells}
    assert set(re.findall(r'href="(env/[^"]+)"', files["changes.html"])) == linked


def test_an_environment_is_picked_out_of_many(files: dict[str, str]) -> None:
    index = Index.model_validate_json(files["index.json"])
    assert len(index.environments) == COUNT
    found = pick(index, Machine(platform="linux-64", driver="535", gpu="A100"))
    assert found.environment.name.startswith("gpu-cu129")


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: apt-get install chromium")
def test_the_search_draws_little_and_the_rest_when_asked(files: dict[str, str], tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    for name in ("packages.html", "style.css", "site.js", "data.js"):
        (tmp_path / name).write_text(files[name], encoding="utf-8")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page()
        page.goto((tmp_path / "packages.html").as_uri())
        for text in ("p", "lib", "python", "a"):
            page.fill("#search input", text)
            assert 50 < page.evaluate("document.querySelectorAll('#found *').length") < 2000, text
        # A package that many have: its links come 200 at a time, until there are no more.
        page.fill("#search input", "cuda-version")
        cells = page.evaluate("[...torchlocks.search('cuda-version').values()].flat()[0].cells.length")
        first = page.locator("#found tbody tr").first
        assert cells > 205
        assert first.locator("a").count() < 10
        while first.locator("button").count():
            first.locator("button").click()
        assert first.locator("a").count() == cells
        browser.close()
