"""The version stands in `apiha/__init__.py`. This tool finds the places that quote another one, or writes a new one.

    python tools/version.py          # names every place that quotes another version; exit code 1 if there is one
    python tools/version.py 0.2.0    # makes this the version, there and wherever it is quoted

Quoted is the version in the names of what a release consists of: the image, the wheel, the tag.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "apiha/__init__.py"
QUOTING = (
    "Containerfile",
    "README*.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "apiha/**/*.py",
    "deploy/helm/*/Chart.yaml",
)
_SOURCE = re.compile(r'(?m)^(?P<before>__version__ = ")(?P<version>[^"]+)')
# `registry.example.com/apiha:0.1.0`, `apiha-0.1.0-py3-none-any.whl`, `apiha 0.1.0` (what `--version` prints);
# `version: 0.1.0` of the Helm chart
_QUOTED = re.compile(
    r"(?m)(?P<before>\bapiha[:\- _]|^(?:appV|v)ersion: )(?P<version>\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)"
)
_VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")


def current() -> str:
    """The version of the source."""
    found = _SOURCE.search(SOURCE.read_text(encoding="utf-8"))
    assert found is not None, f"no __version__ in {SOURCE}"
    return found["version"]


def is_version(text: str) -> bool:
    """Whether the text is a version as this project numbers them: X.Y.Z, X.Y.ZrcN."""
    return _VERSION.fullmatch(text) is not None


def quoting(repository: Path | None = None) -> Iterator[Path]:
    """The files that may quote the version."""
    for pattern in QUOTING:
        yield from sorted((repository or REPOSITORY).glob(pattern))


def stale(version: str) -> list[str]:
    """`FILE:LINE: what it quotes` for every place that quotes a version other than this one."""
    return [
        f"{path.relative_to(REPOSITORY)}:{number}: {found.group()}"
        for path in quoting()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for found in _QUOTED.finditer(line)
        if found["version"] != version
    ]


def write(version: str, repository: Path | None = None) -> None:
    """Make this the version everywhere."""
    source = SOURCE if repository is None else repository / SOURCE.relative_to(REPOSITORY)
    for path in (source, *quoting(repository)):
        before = path.read_text(encoding="utf-8")
        pattern = _SOURCE if path == source else _QUOTED
        after = pattern.sub(lambda found: found["before"] + version, before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(path.relative_to(repository or REPOSITORY))


def main(arguments: list[str]) -> int:
    """Check, or write the version that is given."""
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if not arguments:
        wrong = stale(current())
        print(
            "\n".join(f"{line}, and the version is {current()}" for line in wrong), end="\n" if wrong else ""
        )
        return 1 if wrong else 0
    if len(arguments) > 1 or not is_version(arguments[0]):
        print(f"version: {' '.join(arguments)!r} is not a version; expected X.Y.Z, X.Y.ZrcN", file=sys.stderr)
        return 2
    write(arguments[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
