"""The catalogue as people and programs meet it: every link, every page in a real browser, and the JSON behind it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

from conftest import LAYOUT
from evidence_samples import A100, proving, written
from support import SNAPSHOT, digests, needs_snapshot, torchlocks
from torchlocks.core.errors import LockfileError
from torchlocks.core.files import hash_file
from torchlocks.core.layout import Layout
from torchlocks.diff.compare import changes
from torchlocks.evidence.record import record_of
from torchlocks.evidence.store import write_record
from torchlocks.host.compatibility import check_compatibility
from torchlocks.host.doctor import best
from torchlocks.lockfile.formats import PIXI, read_lock
from torchlocks.lockfile.models import LockedPackage
from torchlocks.matrix.load import load_matrix
from torchlocks.site.index import Index
from torchlocks.site.pick import Machine, gpu_names, host_of, needs
from torchlocks.verify.report_html import report_html
from torchlocks.verify.verdict import Verdict

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: apt-get install chromium")
WIDTHS = (390, 1280)


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


def copy_inputs(root: Path) -> Layout:
    """What the site is made from, in a folder of its own."""
    root.mkdir()
    for name in ("matrix.yml", "environment-cpu.yml", "environment-gpu.yml"):
        shutil.copy(LAYOUT.root / name, root)
    for name in ("locks", "docs"):
        shutil.copytree(LAYOUT.root / name, root / name)
    return Layout(root)


@dataclass
class Site:
    """A site that was written from a copy of this checkout, whose lock of gpu-cu126 was another one before."""

    layout: Layout
    said: str
    seconds: float

    @property
    def root(self) -> Path:
        return self.layout.build / "site"

    def url(self, page: str) -> str:
        name, mark, fragment = page.partition("#")
        return (self.root / name).as_uri() + mark + fragment


@pytest.fixture(scope="module")
def site(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    layout = copy_inputs(tmp_path_factory.mktemp("site") / "a checkout")
    now = layout.locks / "gpu-cu126" / "conda-linux-64.lock"
    text = now.read_bytes()
    now.write_bytes((layout.locks / "gpu-cu128" / "conda-linux-64.lock").read_bytes())
    git(layout.root, "init", "-q")
    git(layout.root, "add", "-A")
    git(layout.root, "commit", "-qm", "The first locks")
    now.write_bytes(text)
    git(layout.root, "commit", "-qam", "Go back to CUDA 12.6")
    # The verification of this machine's own CPU environment, which is one of the local channel.
    layout.reports.mkdir()
    shutil.copy(LAYOUT.reports / "cpu.json", layout.reports)
    # Evidence on a lock, as machines with GPUs would have brought it.
    (layout.suite / "torchsuite").mkdir(parents=True)
    shutil.copy(LAYOUT.suite / "torchsuite" / "required.py", layout.suite / "torchsuite")
    for host in (A100, A100.model_copy(update={"gpus": ("NVIDIA H100 80GB HBM3",) * 2, "driver": "580.65.06"})):
        report = written(layout, proving(layout, "gpu-cu126", host=host), "gpu-cu126")
        write_record(layout, record_of(layout, report, environ={}))
        report.unlink()
    layout.envs.mkdir()
    layout.prefix("cpu").symlink_to(environment)
    began = time.monotonic()
    run = torchlocks(layout.root, "site")
    assert run.returncode == 0, run.stderr
    return Site(layout, run.stdout, time.monotonic() - began)


@pytest.fixture(scope="module")
def index(site: Site) -> Index:
    return Index.model_validate_json((site.root / "index.json").read_text(encoding="utf-8"))


# --- Without a browser ----------------------------------------------------------------------------------


class _Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.targets += [value for name in ("href", "src") if (value := found.get(name))]
        self.ids += [value for name in ("id",) if (value := found.get(name))]


def test_every_link_leads_somewhere(site: Site) -> None:
    pages = {path: _Links(path.read_text(encoding="utf-8")) for path in site.root.rglob("*.html")}
    assert len(pages) > 30
    checked = 0
    for path, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), path
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme in ("https", "data"):
                assert parts.scheme == "data" or path.parent.name == "docs", f"{path}: {target}"
                continue
            assert not parts.scheme, f"{path}: {target}"
            linked = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert linked.is_file(), f"{path}: {target}"
            # The search and the comparison take what they are asked for from the fragment.
            if parts.fragment and linked.suffix == ".html" and linked.name not in ("packages.html", "compare.html"):
                assert parts.fragment in pages[linked].ids, f"{path}: {target}"
            checked += 1
    assert checked > 1000


def test_it_is_small_and_prints_its_path(site: Site) -> None:
    assert str(site.root / "index.html") in site.said
    pages = [path for path in site.root.rglob("*") if path.is_file() and path.parent.parent.name != "locks"]
    # There is a page for each cell.
    assert sum(path.stat().st_size for path in pages) < 80e3 * len(load_matrix(LAYOUT.matrix).targets())
    assert max(path.stat().st_size for path in pages) < 1e6
    first = ("index.html", "style.css", "site.js", "data.js")
    assert sum((site.root / name).stat().st_size for name in first) < 350e3


def test_the_index_is_true(site: Site, index: Index) -> None:
    assert json.loads((site.root / "index.schema.json").read_text(encoding="utf-8"))["title"] == "Index"
    assert len(index.cells()) == len(load_matrix(LAYOUT.matrix).targets())
    for _, entry in index.cells():
        assert (site.root / entry.page).is_file()
        assert {file.format for file in entry.files} == {"explicit", "conda-lock", "pixi"}
        for file in entry.files:
            for root in (site.root, site.layout.root):
                assert hash_file(root / file.path) == file.sha256
    states = {f"{env.name}/{entry.platform}": entry.verification.state for env, entry in index.cells()}
    assert states.pop("cpu/linux-64") == "local"
    assert states.pop("gpu-cu126/linux-64") == "verified"
    assert set(states.values()) == {"none"}


def test_sizes_on_disk_are_those_of_what_is_installed_here(site: Site) -> None:
    page = (site.root / "env" / "cpu" / "linux-64.html").read_text(encoding="utf-8")
    assert "Measured in a build of the local channel" in page
    other = (site.root / "env" / "gpu-cu129" / "linux-64.html").read_text(encoding="utf-8")
    assert "it is not known here" in other


def test_the_history_is_that_of_git(site: Site) -> None:
    page = (site.root / "env" / "gpu-cu126" / "linux-64.html").read_text(encoding="utf-8")
    assert page.index("Go back to CUDA 12.6") < page.index("The first locks")
    assert "18 packages changed" in page
    assert "downgraded" in page
    changed = (site.root / "changes.html").read_text(encoding="utf-8")
    assert re.search(
        r'class="moved"><span aria-hidden="true">● </span><span class="hidden-text">changed: </span>12\.6', changed
    )


def test_a_lock_that_cannot_be_read_leaves_the_site_as_it_was(tmp_path: Path) -> None:
    layout = copy_inputs(tmp_path / "checkout")
    for env in layout.locks.iterdir():
        if env.name != "gpu-cu118":
            shutil.rmtree(env)
    # Two at the same time do not get in each other's way.
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(torchlocks, [layout.root] * 2, ["site"] * 2))
    assert [run.returncode for run in both] == [0, 0], both[0].stderr + both[1].stderr
    page = layout.build / "site" / "index.html"
    before = page.read_bytes()
    files = digests(layout.build / "site")
    assert torchlocks(layout.root, "site").returncode == 0
    assert digests(layout.build / "site") == files, "the same locks give the same bytes"
    assert not (layout.build / ".site.new").exists()
    assert b"Not locked yet: cpu/linux-64" in before
    (layout.locks / "gpu-cu118" / "conda-lock.yml").write_text("package: [", encoding="utf-8")
    run = torchlocks(layout.root, "site")
    assert run.returncode == 13
    assert "gpu-cu118" in run.stderr
    assert page.read_bytes() == before


def test_pick_on_the_command_line() -> None:
    asked = ("pick", "--driver", "535", "--gpu", "A100", "--platform", "linux-64")
    line = torchlocks(LAYOUT.root, *asked, "--client", "micromamba").stdout.splitlines()[-1]
    assert line == "micromamba create -p ./gpu-cu129 -f locks/gpu-cu129/conda-linux-64.lock"
    found = json.loads(torchlocks(LAYOUT.root, *asked, "--json").stdout)
    assert found["environment"] == "gpu-cu129"
    assert found["commands"]["micromamba"] == line
    assert torchlocks(LAYOUT.root, "pick", "--gpu", "A100").returncode == 17
    # A line names files that are there, in whatever folder it is asked for.
    below = torchlocks(LAYOUT.root / "docs", *asked, "--client", "torchlocks").stdout.splitlines()[-1]
    verb, path, prefix = shlex.split(below)[1:]
    assert (verb, prefix) == ("install", "./gpu-cu129")
    assert (LAYOUT.root / "docs" / path).is_file()


def test_pick_reads_only_the_locks_of_its_candidates(tmp_path: Path) -> None:
    layout = copy_inputs(tmp_path / "checkout")
    for lock in layout.locks.glob("*/conda-lock.yml"):
        if lock.parent.name not in ("cpu", "cpu-torch2.10-py312") and not lock.parent.name.startswith("gpu"):
            lock.write_text("not a lock", encoding="utf-8")
    asked = ("pick", "--platform", "linux-64")
    assert "cpu on linux-64" in torchlocks(layout.root, *asked).stdout
    assert "cpu-torch2.10-py312" in torchlocks(layout.root, *asked, "--torch", "2.10", "--python", "3.12").stdout
    assert torchlocks(layout.root, *asked, "--torch", "2.12", "--python", "3.11").returncode == LockfileError.exit_code


@needs_snapshot
def test_a_new_row_and_its_lock_change_the_site_with_no_other_edit(tmp_path: Path) -> None:
    layout = copy_inputs(tmp_path / "checkout")
    for env in layout.locks.iterdir():
        if env.name != "cpu":
            shutil.rmtree(env)
    row = """environments:
  cpu-py312:
    accelerator: cpu
    template: environment-cpu.yml
    channels: [conda-forge]
    platforms:
      linux-64: {python: "3.12", pytorch: "2.10", build: "cpu*"}
"""
    matrix = layout.matrix.read_text(encoding="utf-8")
    layout.matrix.write_text(matrix.replace("environments:\n", row, 1), encoding="utf-8")
    locked = torchlocks(layout.root, "lock", "--env", "cpu-py312", "--snapshot", str(SNAPSHOT))
    assert locked.returncode == 0, locked.stderr
    assert torchlocks(layout.root, "site").returncode == 0
    root = layout.build / "site"
    assert "Python 3.12" in (root / "env" / "cpu-py312" / "linux-64.html").read_text(encoding="utf-8")
    assert "cpu-py312" in (root / "index.html").read_text(encoding="utf-8")
    assert '<option value="cpu-py312/linux-64">' in (root / "compare.html").read_text(encoding="utf-8")
    assert '"cpu-py312/linux-64":[' in (root / "data.js").read_text(encoding="utf-8")
    index = Index.model_validate_json((root / "index.json").read_text(encoding="utf-8"))
    assert index.environments[0].name == "cpu-py312"


# --- In a browser ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        # Chromium's own sandbox does not start for root, which CI is; the pages are this repository's.
        found = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield found
        found.close()


@dataclass
class Window:
    """A page in the browser, and all that it complained of."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def open(self, url: str) -> None:
        self.page.goto("about:blank")  # A change of the fragment alone would not load the page anew.
        self.page.goto(url)
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{url} is wider than the window by {wide} pixels"


@pytest.fixture(params=WIDTHS)
def window(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Window]:
    context = browser.new_context(
        viewport={"width": request.param, "height": 900},
        color_scheme="dark" if request.param < 600 else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    window = Window(page)
    page.on("console", lambda message: window.complaints.append(message.text))
    page.on("pageerror", lambda error: window.complaints.append(str(error)))
    page.on("requestfailed", lambda request: window.complaints.append(request.url))
    yield window
    context.close()
    assert window.complaints == []


@needs_browser
def test_a_walk_through_the_site(site: Site, window: Window) -> None:
    page = window.page
    # Say what the machine is, and get the line.
    window.open(site.url("index.html"))
    page.get_by_label("My GPU").select_option(label="A100 (sm_80)")
    assert "A GPU requires a driver" in page.locator("#picked").inner_text()
    page.get_by_label("My NVIDIA driver").fill("535")
    assert "A GPU requires a driver" not in page.locator("#picked").inner_text()
    page.get_by_label("I install with").select_option("micromamba")
    line = "micromamba create -p ./gpu-cu129 -f locks/gpu-cu129/conda-linux-64.lock"
    assert page.locator("#picked code").inner_text() == line
    # Copy it, and paste it elsewhere.
    page.locator("#picked").get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    page.get_by_label("glibc").focus()
    page.keyboard.press("Control+v")
    assert page.get_by_label("glibc").input_value() == line
    assert "is no version of glibc" in page.locator("#picked").inner_text()
    assert page.get_by_label("glibc").get_attribute("aria-invalid") == "true"
    page.get_by_label("glibc").fill("2.17")
    assert page.get_by_label("glibc").get_attribute("aria-invalid") == "false"
    assert page.locator("#picked a").first.inner_text() == "gpu-cu124"
    page.get_by_label("glibc").fill("")
    # Read about it.
    page.locator("#picked a").first.click()
    page.wait_for_url("**/env/gpu-cu129/linux-64.html")
    assert "gpu-cu129" in page.locator("h1").inner_text()
    assert page.get_by_role("row", name=re.compile("^libtorch ")).is_visible()
    page.get_by_text("The same as a list").click()
    assert page.get_by_text("pytorch needs").is_visible()
    # Compare two.
    page.get_by_role("link", name="Compare", exact=True).first.click()
    page.get_by_label("From").select_option("gpu-cu126/linux-64")
    page.locator("select[name=after]").select_option("gpu-cu128/linux-64")
    compared = page.locator("#compared")
    assert "18 upgraded." in compared.inner_text()
    page.get_by_role("button", name="Swap").click()
    assert "18 downgraded." in compared.inner_text()
    assert page.url.endswith("#gpu-cu128/linux-64...gpu-cu126/linux-64")
    # Search.
    page.get_by_role("link", name="Packages", exact=True).click()
    page.get_by_label("Name of a package").fill("cudnn")
    found = page.locator("#found")
    assert "3 packages with “cudnn” in the name" in found.inner_text()
    found.get_by_role("link", name="gpu-cu118 on linux-64").first.click()
    page.wait_for_url("**/env/gpu-cu118/linux-64.html")
    # Half an address, as a chat cuts it, asks for nothing.
    for name, shown in (("packages.html", "#found"), ("compare.html", "#compared")):
        window.open(site.url(name) + "#%")
        assert page.locator(shown).inner_text()
    # Read the documentation, and the report of what was verified.
    page.get_by_role("link", name="Docs").click()
    page.get_by_role("link", name="How locking works").click()
    assert page.locator("h1").inner_text() == "How locking works"
    window.open(site.url("env/cpu/linux-64.html"))
    page.get_by_role("link", name="The whole report").click()
    assert "verified" in page.locator(".verdict").inner_text()


@needs_browser
def test_every_kind_of_page_fits_the_window(site: Site, window: Window) -> None:
    pages = ["index.html", "compare.html", "packages.html", "changes.html", "reports/cpu.html"]
    pages += ["compare.html#cpu/linux-64...gpu-cu129/win-64", "packages.html#lib"]
    assert "2 x H100" in (site.root / "env" / "gpu-cu126" / "linux-64.html").read_text(encoding="utf-8")
    pages += [f"env/{name}.html" for name in ("cpu/osx-arm64", "gpu-cu124/win-64", "gpu-cu126/linux-64")]
    if window.page.viewport_size == {"width": WIDTHS[0], "height": 900}:  # What is narrow enough there fits everywhere.
        pages += [f"docs/{path.name}" for path in (site.root / "docs").glob("*.html")]
    for page in pages:
        window.open(site.url(page))
        assert window.page.locator("h1").count() == 1
        assert window.page.locator("main").count() == 1


@needs_browser
def test_a_report_of_failures_fits_the_window(site: Site, window: Window, tmp_path: Path) -> None:
    passed = Verdict.model_validate_json((site.layout.reports / "cpu.json").read_bytes())
    long = "/a/path/without/a/space/" * 9
    broken = passed.checks[5].model_copy(update={"outcome": "failed", "why": long, "error": f"E  {long}\n" * 40})
    skipped = passed.checks[6].model_copy(update={"outcome": "skipped", "why": long})
    checks = (*passed.checks[:5], broken, skipped, *passed.checks[7:])
    page = tmp_path / "report.html"
    failed = {"checks": checks, "state": "failed", "headline": f"CPU environment FAILED: {broken.id}"}
    page.write_text(report_html(passed.model_copy(update=failed)), encoding="utf-8")
    window.open(page.as_uri())
    assert window.page.get_by_role("heading", name="What failed").is_visible()
    assert "FAILED" in window.page.locator(".verdict").inner_text()


@needs_browser
def test_the_keyboard_is_enough(site: Site, window: Window) -> None:
    page = window.page
    window.open(site.url("index.html"))
    focused = "document.activeElement.textContent.trim()"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "Skip to the content"
    assert page.locator(".skip").bounding_box()["x"] >= 0  # type: ignore[index]
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "platform"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    # Every field has a label, every table a caption, every picture a name.
    for script, name in (
        ("input, select", "e.labels.length"),
        ("table", "e.caption"),
        ("svg:not([aria-hidden])", "e.getAttribute('aria-label')"),
    ):
        for path in ("index.html", "compare.html", "packages.html#mkl", "env/gpu-cu118/linux-64.html"):
            window.open(site.url(path))
            assert page.evaluate(f"[...document.querySelectorAll('{script}')].every((e) => {name})"), path


@needs_browser
def test_light_and_dark(site: Site, browser: Browser) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(site.url("index.html"))
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    light, dark = ([int(part) for part in re.findall(r"\d+", ground)] for ground in grounds)
    assert min(light) > 200
    assert max(dark) < 60


def evaluated(browser: Browser, url: str, name: str, script: str, value: object) -> list[Any]:
    """What a script makes of a value on a page. As one text: playwright's own conversion of lists takes seconds."""
    page = browser.new_page()
    page.goto(url)
    answer: str = page.evaluate(
        f"(text) => {{ const {name} = JSON.parse(text); return JSON.stringify({script}); }}", json.dumps(value)
    )
    page.close()
    found: list[Any] = json.loads(answer)
    return found


DRIVERS = (
    None, "390", "450.80.02", "470", "520.61.05", "525", "525.60.13", "528.33", "535", "550.54.14", "560.28.03",
    "570", "570.26", "575.51.03", "580", "580.65.06", "591",
)  # fmt: skip


@needs_browser
def test_the_picker_and_the_command_give_the_same_answers(site: Site, browser: Browser, index: Index) -> None:
    """Every driver with every kind of GPU on every platform: judgement by judgement, and the choice."""
    capabilities = (None, *sorted({*gpu_names().values(), "8.7", "11.0", "13.0"}))
    platforms = dict.fromkeys(entry.platform for _, entry in index.cells())
    machines = [
        Machine(platform=platform, driver=driver, gpu=gpu, wsl=wsl, glibc=glibc)
        for platform in platforms
        for wsl in ((False, True) if platform == "linux-64" else (False,))
        for glibc in ((None, "2.17") if platform == "linux-64" else (None,))
        for driver in DRIVERS
        for gpu in (capabilities if driver else (None,))
    ]
    judge = """machines.map((machine) => {
      const { chosen, checked } = torchlocks.pick(machine);
      return [chosen && chosen.env.name, checked.map(({ fit }) => fit.state)];
    })"""
    hosts = [host_of(machine) for machine in machines]
    asked = [
        {
            "platform": machine.platform,
            "driver": host.driver,
            "capability": machine.gpu,
            "glibc": machine.glibc,
            "osx": None,
            "wsl": machine.wsl,
        }
        for machine, host in zip(machines, hosts, strict=True)
    ]
    answers = evaluated(browser, site.url("index.html"), "machines", judge, asked)
    assert len(answers) > 1500
    wanted = {
        platform: [needs(env, entry) for env, entry in index.defaults() if entry.platform == platform]
        for platform in platforms
    }
    chosen_ones = set()
    for machine, host, (name, states) in zip(machines, hosts, answers, strict=True):
        checked = [check_compatibility(each, host) for each in wanted[machine.platform]]
        chosen = best(checked)
        assert [fit.state for fit in checked] == states, machine
        assert (chosen.env if chosen else None) == name, machine
        chosen_ones.add(name)
    assert {"cpu", "gpu-cu118", "gpu-cu129", "gpu-cu133"} <= chosen_ones


@needs_browser
def test_the_comparison_is_that_of_diff(site: Site, browser: Browser, index: Index) -> None:
    names = [f"{env.name}/{entry.platform}" for env, entry in index.cells()]
    pairs = [(before, after) for before in names[::7] for after in names[::3] if before != after]
    script = "pairs.map(([a, b]) => torchlocks.changes(a, b).map(({ name, move }) => [name, move]))"
    answers = evaluated(browser, site.url("compare.html"), "pairs", script, pairs)
    read = cache(lambda env: read_lock(site.layout.locks / env / PIXI))

    def packages(name: str) -> tuple[LockedPackage, ...]:
        env, platform = name.split("/")
        return read(env).packages[platform]

    moves = set()
    for (before, after), answer in zip(pairs, answers, strict=True):
        expected = [[change.name, change.move] for change in changes(packages(before), packages(after))]
        assert sorted(answer) == sorted(expected), (before, after)
        moves |= {move for _, move in expected}
    assert {"added", "removed", "upgraded", "downgraded", "rebuilt"} <= moves


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@needs_browser
def test_on_the_web_the_lines_fetch_the_files_from_there(site: Site, browser: Browser) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site.root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}"
    page = browser.new_page()
    page.goto(f"{home}/env/gpu-cu118/linux-64.html")
    lines = page.locator(".lines code").all_inner_texts()
    page.goto(f"{home}/index.html")
    lines.append(page.locator("#picked code").inner_text())
    page.close()
    assert len(lines) == 7
    urls = {url for line in lines for url in re.findall(r"http://\S+", line)}
    assert len(urls) >= 4
    for url in urls:
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200
            assert answer.read()
    server.shutdown()
