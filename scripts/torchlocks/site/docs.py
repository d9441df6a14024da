"""Render `docs/*.md` as pages of the site; links work both there and in the repository."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token
    from markupsafe import Markup

#: Pages that come first, in this order; others follow by name.
FIRST = (
    "get-started",
    "environments",
    "use-a-lock",
    "choose-cuda",
    "hpc",
    "containers",
    "verification",
    "add-a-row",
    "how-locking-works",
)


@dataclass(frozen=True)
class DocPage:
    """One page: the file's name without `.md`, its title, its headings (identifier, text), and its HTML."""

    slug: str
    title: str
    headings: tuple[tuple[str, str], ...]
    html: Markup


def read_docs(folder: Path) -> tuple[DocPage, ...]:
    """Return all pages of `folder`; none if it does not exist."""
    paths = sorted(folder.glob("*.md"), key=lambda path: (_order(path.stem), path.stem))
    return tuple(render_page(path.stem, path.read_text(encoding="utf-8")) for path in paths)


def _order(slug: str) -> int:
    return FIRST.index(slug) if slug in FIRST else len(FIRST)


def render_page(slug: str, text: str) -> DocPage:
    """Render a Markdown text. HTML in it is escaped.

    Links to other pages of `docs/` become links to their HTML; those to files elsewhere in the repository, which are
    not on the site, become the name of the file.
    """
    from markupsafe import Markup

    parser = _parser()
    tokens = parser.parse(text)
    headings: list[tuple[str, str]] = []
    title = slug
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = _plain(tokens[number + 1])
            anchor = _anchor(heading, {anchor for anchor, _ in headings})
            token.attrSet("id", anchor)
            if token.tag == "h1":
                title = heading
            else:
                headings.append((anchor, heading))
    _each_inline(tokens, _relink)
    html = parser.renderer.render(tokens, parser.options, {})
    # Tables and code scroll horizontally on a narrow screen, also by keyboard.
    html = html.replace("<table>", '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>')
    html = html.replace("</table>", "</table></div>").replace("<pre>", '<pre tabindex="0">')
    return DocPage(slug=slug, title=title, headings=tuple(headings), html=Markup(html))


def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))


def _anchor(text: str, taken: set[str]) -> str:
    """Return an identifier for a heading by the rule of repository hosts, so that links work on both."""
    base = re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", text.strip().lower()))
    number, anchor = 0, base
    while anchor in taken:
        number += 1
        anchor = f"{base}-{number}"
    return anchor


def _each_inline(tokens: list[Token], do: Callable[[list[Any]], list[Any]]) -> None:
    for token in tokens:
        if token.children:
            token.children = do(token.children)


def _relink(children: list[Token]) -> list[Token]:
    """Rewrite the links among the children of one block; see `render_page`."""
    from markdown_it.token import Token

    kept: list[Token] = []
    dropped = False
    for child in children:
        if child.type == "link_open":
            target = page_link(str(child.attrGet("href") or ""))
            dropped = target is None
            if target is not None:
                child.attrSet("href", target)
                kept.append(child)
            else:
                kept.append(Token("em_open", "em", 1))
        elif child.type == "link_close" and dropped:
            kept.append(Token("em_close", "em", -1))
            dropped = False
        else:
            kept.append(child)
    return kept


def page_link(href: str) -> str | None:
    """Return the target on the site of a link in `docs/`; None for a file that is not on it."""
    if re.match(r"^[a-z]+:", href) or href.startswith("#"):
        return href
    path, mark, fragment = href.partition("#")
    if re.fullmatch(r"[\w-]+\.md", path):
        return f"{path[:-3]}.html{mark}{fragment}"
    return None
