"""Reads a built site: every link and anchor leads somewhere, and a browser loads nothing from elsewhere.

`python tools/docs_check.py build/site`
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
OPTIONAL = {"404.html"}  # made for a server's root: its links begin with /


class Page(HTMLParser):
    """One page: its links, its anchors, and what it makes a browser load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag refers to."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in {"canonical", "alternate", "next", "prev", "edit"}:
            self.loads.append(found.get("href", ""))
        elif tag in LOADED and LOADED[tag] in found:
            self.loads.append(found[LOADED[tag]])


def problems(site: Path) -> list[str]:
    """What is wrong, a line each."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        if name in OPTIONAL:
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                found.append(f"{name}: {link}: no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name}: {link}: no such anchor")
        for load in page.loads:
            parts = urlsplit(load)
            if parts.netloc:
                found.append(f"{name}: loads {load}")
            elif not parts.scheme and not (path.parent / unquote(parts.path)).exists():
                found.append(f"{name}: {load}: no such file")
    for style in sorted(site.rglob("*.css")):
        found += [
            f"{style.relative_to(site)}: loads {match[0]}"
            for match in re.finditer(r"url\(['\"]?(?:https?:)?//[^)]*\)", style.read_text(encoding="utf-8"))
        ]
    return found


def main(arguments: list[str]) -> int:
    """Print the problems; 1 if there are any."""
    site = Path(arguments[0])
    found = problems(site)
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        count = len(list(site.rglob("*.html")))
        print(f"{count} pages: every link leads somewhere, nothing is loaded from elsewhere")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
