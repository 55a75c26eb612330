"""The commands that the documentation prints, taken from its pages.

A code block is marked by a comment on the line before its fence:

    <!-- test: join -->
    ```sh
    kubeadm join apiserver.cluster.local:6443 --token …
    ```

In a `console` block the commands are what follows `$ ` or `# `; the rest is their output. A placeholder is replaced by
whoever takes the block, and a replacement that finds nothing to replace is an error.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

DOCS = Path(__file__).resolve().parents[3] / "docs"
_BLOCK = re.compile(
    r"^(?P<indent> *)<!-- test: (?P<name>[a-z0-9-]+) -->\n"
    r"(?P=indent)```(?P<language>\w+)\n(?P<body>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_MARK = re.compile(r"<!-- test: ")


def blocks() -> dict[str, tuple[str, str]]:
    """Every marked block: name to (language, text). Raises ValueError for a mark without a block, or used twice."""
    found: dict[str, tuple[str, str]] = {}
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        matches = list(_BLOCK.finditer(text))
        if len(matches) != len(_MARK.findall(text)):
            raise ValueError(f"{page.name}: a mark that no code block follows")
        for match in matches:
            if match["name"] in found:
                raise ValueError(f"{page.name}: {match['name']} is marked twice")
            found[match["name"]] = match["language"], textwrap.dedent(match["body"])
    return found


def block(name: str, replace: dict[str, str] | None = None) -> str:
    """The text of the block; of a `console` block, its commands. `replace`: what is written to what is meant.

    Raises KeyError if no block has the name, ValueError if there is nothing to replace.
    """
    language, text = blocks()[name]
    if language == "console":
        text = "".join(line[2:] for line in text.splitlines(keepends=True) if line.startswith(("$ ", "# ")))
    for written, meant in (replace or {}).items():
        if written not in text:
            raise ValueError(f"the block {name} does not contain {written!r}:\n{text}")
        text = text.replace(written, meant)
    return text
