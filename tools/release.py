"""Makes a release: the version, the changelog, a commit, the artifacts, a tag; then says what is left to do by hand.

    make release VERSION=0.2.0

Nothing leaves this machine. Refuses a tree with changes, a version that is tagged already, and a changelog without an
entry. If the artifacts cannot be built, the commit is taken back.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from tools import version

REPOSITORY = Path(__file__).resolve().parents[1]
_UNRELEASED = re.compile(r"^## \[(?:Unreleased|[^\]]+\] - unreleased)[^\n]*\n", re.MULTILINE | re.IGNORECASE)


class Refused(Exception):
    """Why there is no release; nothing was changed."""


def changelog(text: str, number: str, day: str) -> str:
    """The changelog with its unreleased section as that of this version. Raises Refused if it says nothing."""
    heading = _UNRELEASED.search(text)
    if heading is None:
        raise Refused("CHANGELOG.md has no section `## [Unreleased]`: write what users notice, and commit it")
    following = re.search(r"^## \[", text[heading.end() :], re.MULTILINE)
    section = text[heading.end() :][: following.start() if following else None]
    if not re.search(r"^- ", section, re.MULTILINE):
        raise Refused(
            "CHANGELOG.md says nothing below `## [Unreleased]`: write what users notice, and commit it"
        )
    return f"{text[: heading.start()]}## [{number}] - {day}\n{text[heading.end() :]}"


def release(repository: Path, number: str, day: str, build: Callable[[], None]) -> None:
    """Do it all. Raises Refused; what `build` raises, with the commit taken back."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=repository, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    tag = f"v{number}"
    if changed := git("status", "--porcelain"):
        raise Refused(f"the tree has changes; commit them or put them away first:\n{changed}")
    if git("tag", "--list", tag):
        raise Refused(f"{tag} is tagged already: git show {tag}")
    path = repository / "CHANGELOG.md"
    text = changelog(path.read_text(encoding="utf-8"), number, day)
    before = git("rev-parse", "HEAD")
    try:
        version.write(number, repository)
        path.write_text(text, encoding="utf-8")
        git("commit", "--all", "--message", f"Version {number}")
        build()
    except BaseException:
        git("reset", "--hard", before)
        raise
    git("tag", "--annotate", tag, "--message", f"apiha {number}")


def left(number: str, dist: Path) -> str:
    """What has to be done by hand, as commands."""
    image = f"{dist.name}/apiha-{number}-oci.tar"
    push = f"skopeo copy oci-archive:{image} docker://REGISTRY/apiha:{number}"
    if not (dist.parent / image).exists():
        push = f"# no {image} was built, see above: build it, and push it as REGISTRY/apiha:{number}"
    return f"""
Version {number} is committed and tagged on this machine. Left to do:

    sudo bash .ci/run                                    # if it did not pass on this commit's parent
    git push --follow-tags origin HEAD
    gh release create v{number} --notes-from-tag dist/*     # every file of dist/, SHA256SUMS with them
    twine upload dist/*.whl dist/*.tar.gz
    {push}

To take it back before that: git tag -d v{number} && git reset --hard HEAD~1"""


def main(arguments: list[str]) -> int:
    """Check the arguments, release, say what is left."""
    if len(arguments) != 1 or not version.is_version(arguments[0]):
        print("release: expected a version: make release VERSION=X.Y.Z (or X.Y.ZrcN)", file=sys.stderr)
        return 2
    number = arguments[0]

    def build() -> None:
        subprocess.run(["make", "--no-print-directory", "dist"], cwd=REPOSITORY, check=True)

    try:
        release(REPOSITORY, number, datetime.now(timezone.utc).strftime("%Y-%m-%d"), build)
    except Refused as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"release: `{' '.join(error.cmd)}` failed; the commit was taken back", file=sys.stderr)
        print(error.stderr or "", file=sys.stderr, end="")
        return 1
    print(left(number, REPOSITORY / "dist"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
