"""The documentation as a site: its navigation, its diagrams, and what the hooks of MkDocs do to a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_docs import DOCS, PAGES, REPOSITORY, anchors
from tools import docs_check, docs_hooks

SVG = "{http://www.w3.org/2000/svg}"
DIAGRAMS = [path for path in sorted(DOCS.glob("*.svg")) if 'id="theme"' in path.read_text(encoding="utf-8")]


def targets(nav: list[Any]) -> Iterator[str]:
    """The files of a navigation."""
    for item in nav:
        target = next(iter(item.values())) if isinstance(item, dict) else item
        if isinstance(target, list):
            yield from targets(target)
        else:
            yield target


def navigation() -> list[Any]:
    """The navigation of mkdocs.yml."""
    nav: list[Any] = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    return nav


def test_every_page_is_in_the_navigation_once() -> None:
    """A page that mkdocs.yml does not list is an error of `make docs`; so is one that does not exist."""
    listed = list(targets(navigation()))
    assert sorted(listed) == sorted(path.name for path in PAGES)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_out_of_the_documentation_lead_to_the_repository(path: Path) -> None:
    """What is no page of the site is a page of GitHub there."""
    text = path.read_text(encoding="utf-8")
    assert "](../" not in docs_hooks.outward(text, DOCS)


def test_a_link_that_leads_nowhere_is_an_error() -> None:
    """It would be a dead link to GitHub."""
    with pytest.raises(ValueError, match=r"\.\./NO\.md: no such file"):
        docs_hooks.outward("see [this](../NO.md)", DOCS)


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("control_plane", "control_plane"),
        ("What `apiha status` reports", "what-apiha-status-reports"),
        ("kubelet's HTTP/2 variables", "kubelets-http2-variables"),
        ("1. The name in the serving certificates", "1-the-name-in-the-serving-certificates"),
        ("Pods - and nodes", "pods---and-nodes"),
    ],
)
def test_headings_have_the_anchors_of_github(heading: str, anchor: str) -> None:
    """So that one link works in both places."""
    assert docs_hooks.anchor(heading.replace("`", "")) == anchor
    assert anchors(f"# {heading}\n") == {anchor}


@pytest.mark.parametrize("path", DIAGRAMS, ids=lambda path: path.name)
def test_diagrams_read_well_in_the_dark_and_aloud(path: Path) -> None:
    """Each has a title, a description, and all its variables in both colour schemes; nothing comes from elsewhere."""
    text = path.read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.find(f"{SVG}title") is not None
    assert root.find(f"{SVG}desc") is not None
    light, _, dark = text.partition("prefers-color-scheme: dark")
    used = set(re.findall(r"var\((--[a-z]+)\)", text))
    page = (DOCS / "assets/site.css").read_text(encoding="utf-8")
    scheme = page.partition('slate"] .md-typeset svg.diagram')
    for place in (light, dark, scheme[0], scheme[2]):
        assert {name for name in used if f"{name}:" not in place} == set()
    assert re.findall(r'(?:href|src)="|url\(', text) == []


def test_a_diagram_becomes_part_of_its_page() -> None:
    """There it has the page's colours; a plot with colours of its own stays a picture."""
    html = docs_hooks.inlined('<p><img alt="The idea" src="idea.svg" /></p>', DOCS)
    assert html.startswith('<svg class="diagram" xmlns=')
    assert "prefers-color-scheme" not in html
    plain = '<p><img alt="" src="assets/apiha.svg" /></p>'
    assert docs_hooks.inlined(plain, DOCS) == plain


def test_the_check_of_the_site_finds_what_is_broken(tmp_path: Path) -> None:
    """A dead link, a dead anchor, a missing picture, and what is loaded from elsewhere."""
    (tmp_path / "good.html").write_text(
        '<h2 id="here"></h2><a href="good.html#here">x</a><a href="https://x">x</a>'
    )
    (tmp_path / "bad.html").write_text(
        '<a href="no.html">x</a><a href="good.html#there">x</a><img src="no.png"><script src="https://cdn/x.js"></script>'
    )
    (tmp_path / "style.css").write_text("body { background: url(//fonts.example.com/x) }")
    assert docs_check.problems(tmp_path) == [
        "bad.html: no.html: no such file",
        "bad.html: good.html#there: no such anchor",
        "bad.html: no.png: no such file",
        "bad.html: loads https://cdn/x.js",
        "style.css: loads url(//fonts.example.com/x)",
    ]


CHINESE = [
    (REPOSITORY / "README.md", REPOSITORY / "README.zh-CN.md"),
    (DOCS / "index.md", DOCS / "index.zh-CN.md"),
]


@pytest.mark.parametrize(("english", "chinese"), CHINESE, ids=lambda path: path.name)
def test_the_pages_in_chinese_have_the_commands_and_pictures_of_the_english_ones(
    english: Path, chinese: Path
) -> None:
    """The words are their own; what is typed is not. Each leads to the other."""
    texts = [path.read_text(encoding="utf-8") for path in (english, chinese)]
    blocks = [re.findall(r"^```.*?^```$", text, re.DOTALL | re.MULTILINE) for text in texts]
    assert blocks[0] == blocks[1]
    pictures = [re.findall(r"[\w/.-]+\.svg", text) for text in texts]
    assert pictures[0] == pictures[1]
    assert f"]({chinese.name})" in texts[0]
    assert f"]({english.name})" in texts[1]
