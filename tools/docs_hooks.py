"""What MkDocs does beside rendering: hooks of mkdocs.yml, so that the same pages read well on GitHub and as a site.

- Headings have the anchors that GitHub gives them.
- A link out of docs/ (`../CHANGELOG.md`) leads to the repository.
- A diagram becomes part of its page: there it has the colours that the reader chose, not those of the system.
- A page in Chinese says so to browsers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/apiha/apiha/blob/main"
DIAGRAM = re.compile(r'<p><img alt="([^"]*)" src="((?:[\w-]+/)*[\w-]+\.svg)"\s*/?></p>')
THEME = re.compile(r'\s*<style id="theme">.*?</style>', re.DOTALL)


def anchor(heading: str, _separator: str = "-") -> str:
    """The anchor of a heading, as GitHub makes it; the second parameter is Markdown's."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def outward(markdown: str, docs: Path) -> str:
    """The page's text with each relative link to a file outside of `docs` as a link to the repository.

    Raises ValueError for one that leads nowhere.
    """

    def link(match: re.Match[str]) -> str:
        target = (docs / match[1]).resolve()
        if not target.exists():
            raise ValueError(f"{match[1]}: no such file")
        return f"]({REPOSITORY}/{target.relative_to(docs.parent)}{match[2] or ''})"

    return re.sub(r"\]\((\.\./[^)#\s]+)(#[^)\s]+)?\)", link, markdown)


def inlined(html: str, docs: Path) -> str:
    """The page with its diagrams (files with a theme of their own) in place of references to them."""

    def diagram(match: re.Match[str]) -> str:
        text = (docs / match[2]).read_text(encoding="utf-8")
        if not THEME.search(text):
            return match[0]
        return THEME.sub("", text).replace("<svg ", '<svg class="diagram" ', 1)

    return DIAGRAM.sub(diagram, html)


def on_config(config: Any) -> Any:
    """MkDocs has read its configuration."""
    config.mdx_configs["toc"]["slugify"] = anchor
    return config


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """MkDocs has read a page."""
    return outward(markdown, Path(config.docs_dir))


def on_page_content(html: str, config: Any, **_: Any) -> str:
    """MkDocs has rendered a page's text."""
    return inlined(html, Path(config.docs_dir))


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """MkDocs has put the page's text into the theme."""
    return (
        output.replace('<html lang="en"', '<html lang="zh-CN"') if ".zh-CN." in page.file.src_uri else output
    )
