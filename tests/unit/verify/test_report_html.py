"""The report as a page: what it says, in which order, and that it stands on its own."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sample_reports import check, verdict
from torchlocks.core.quantities import seconds
from torchlocks.verify.report import write_reports
from torchlocks.verify.report_html import report_html
from torchsuite.tier_names import TIERS


class _Page(HTMLParser):
    """What a page shows, what it refers to, and whether its elements are closed in order."""

    VOID = frozenset({"meta", "link", "br", "input", "img", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.targets: list[str] = []
        self.ids: list[str] = []
        self.shown = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        given = dict(attrs)
        self.targets += [value for name in ("href", "src") if (value := given.get(name))]
        self.ids += [value for name in ("id",) if (value := given.get(name))]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.shown += data


def test_failures_come_first_and_whole() -> None:
    error = "def test_b():\n    assert 1 < <2>\n" + "E   very long\n" * 50
    text = report_html(verdict(check("a"), check("b", "failed", why="1 is not <2>", error=error), check("c")))
    page = _Page(text)
    assert error in page.shown
    assert page.shown.index("1 is not <2>") < page.shown.index("Every check")
    assert "FAILED" in page.shown
    assert "2 checks passed, 1 failed, 0 skipped." in page.shown


def test_a_skipped_check_gives_the_reason() -> None:
    page = _Page(report_html(verdict(check("a"), check("b[x-1]", "skipped", why="no compiler here"))))
    assert re.search(r"no compiler here:\s+b \(x-1\)", page.shown)


def test_a_tier_that_did_not_run_took_no_time() -> None:
    page = report_html(verdict(check("a", duration_s=2.0), check("b", "skipped", "gpu", duration_s=0.0, why="no GPU")))
    table = page[page.index("The suite by tier") : page.index("</table>")]
    ran, did_not = (next(row for row in table.split("<tr>") if f"#tier-{tier}" in row) for tier in ("cpu", "gpu"))
    assert re.findall(r'class="num">(.*?)</td>', ran) == ["1", "0", "0", "2.0 s"]
    assert re.findall(r'class="num">(.*?)</td>', did_not) == ["0", "0", "1", ""]


def test_every_tier_and_fact_is_there() -> None:
    page = _Page(report_html(verdict(check("a", values={"error_over_bound": 0.31169}))))
    for text in (*TIERS, "ab" * 32, "locks/cpu/conda-lock.yml", "2.12.0", "0.1235", "570.26", "NVIDIA T4", "0.3117"):
        assert text in page.shown
    assert "not run: a CPU environment" in page.shown


def test_times_are_drawn_to_the_scale_of_the_slowest() -> None:
    text = report_html(verdict(check("a", duration_s=2.0), check("b", duration_s=1.0), check("c", "skipped")))
    assert re.findall(r'class="meter".*?width="([\d.]+)"', text) == ["100", "50"]


def test_it_loads_nothing() -> None:
    page = _Page(report_html(verdict(check("a"))))
    assert all(target.startswith("#") or target == "data:," for target in page.targets)
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert {target[1:] for target in page.targets if target.startswith("#")} <= set(page.ids)


def test_nothing_that_ran_is_no_success() -> None:
    page = _Page(report_html(verdict()))
    assert "nothing ran, so nothing is proven" in page.shown
    assert "✓" not in page.shown


@given(st.text(), st.text())
def test_the_message_of_a_check_is_text_and_never_markup(why: str, error: str) -> None:
    page = _Page(report_html(verdict(check("a", "failed", why=why or "x", error=error))))
    assert not page.open


def test_it_is_written_beside_the_others(tmp_path: Path) -> None:
    found = verdict(check("a"))
    paths = write_reports(found, tmp_path / "reports")
    assert [path.name for path in paths] == ["cpu.json", "cpu.xml", "cpu.html"]
    assert paths[2].read_text(encoding="utf-8") == report_html(found)


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (0.0, "0.0 ms"),
        (0.0004, "0.4 ms"),
        (0.035, "35 ms"),
        (0.9999, "1.0 s"),
        (2.06, "2.1 s"),
        (99.4, "99.4 s"),
        (200, "3 min 20 s"),
    ],
)
def test_times_for_people(amount: float, said: str) -> None:
    assert seconds(amount) == said
