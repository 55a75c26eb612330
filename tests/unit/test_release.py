"""`make release`: what it changes, what it refuses, and that a failed build leaves no trace."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools import release
from tools.release import Refused

DAY = "2026-12-24"
CHANGELOG = (
    "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n\n## [0.1.0] - 2026-11-23\n\n- The first.\n"
)


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=repository, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository of version 0.1.0 with something to release."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "A")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "a@example.com")
    (tmp_path / "apiha").mkdir()
    (tmp_path / "apiha/__init__.py").write_text('__version__ = "0.1.0"\n')
    (tmp_path / "README.md").write_text("apiha-0.1.0-py3-none-any.whl, apiha_0.1.0_all.deb\n")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "x")
    return tmp_path


def test_a_release_is_a_commit_with_version_and_changelog_and_a_tag_on_it(repository: Path) -> None:
    """The artifacts are built from the commit that is tagged afterwards."""
    seen = []
    release.release(repository, "0.2.0", DAY, lambda: seen.append(git(repository, "rev-parse", "HEAD")))
    assert [git(repository, "rev-parse", "v0.2.0^{commit}")] == seen == [git(repository, "rev-parse", "HEAD")]
    assert git(repository, "status", "--porcelain") == ""
    assert (repository / "apiha/__init__.py").read_text() == '__version__ = "0.2.0"\n'
    assert (repository / "README.md").read_text() == "apiha-0.2.0-py3-none-any.whl, apiha_0.2.0_all.deb\n"
    assert (repository / "CHANGELOG.md").read_text() == CHANGELOG.replace("[Unreleased]", f"[0.2.0] - {DAY}")


def test_a_tree_with_changes_is_refused(repository: Path) -> None:
    """Also a file that git does not know: it might be in the sdist."""
    (repository / "new").write_text("x")
    with pytest.raises(Refused, match=r"the tree has changes.*(?s:.)*\?\? new"):
        release.release(repository, "0.2.0", DAY, lambda: None)
    assert git(repository, "tag") == ""


def test_a_version_that_is_tagged_is_refused(repository: Path) -> None:
    """Tags are not moved."""
    git(repository, "tag", "v0.2.0")
    with pytest.raises(Refused, match=r"v0\.2\.0 is tagged already"):
        release.release(repository, "0.2.0", DAY, lambda: None)


def test_an_empty_changelog_is_refused(repository: Path) -> None:
    """What was released is no entry of what is to be."""
    (repository / "CHANGELOG.md").write_text(CHANGELOG.replace("- A thing.\n", ""))
    git(repository, "commit", "--all", "--quiet", "--message", "x")
    with pytest.raises(Refused, match="says nothing"):
        release.release(repository, "0.2.0", DAY, lambda: None)


def test_a_build_that_fails_leaves_everything_as_it_was(repository: Path) -> None:
    """No commit, no tag, no other version."""
    before = git(repository, "rev-parse", "HEAD")

    def build() -> None:
        raise subprocess.CalledProcessError(2, ["make", "dist"])

    with pytest.raises(subprocess.CalledProcessError):
        release.release(repository, "0.2.0", DAY, build)
    assert git(repository, "rev-parse", "HEAD") == before
    assert git(repository, "tag") == ""
    assert (repository / "apiha/__init__.py").read_text() == '__version__ = "0.1.0"\n'


@pytest.mark.parametrize("heading", ["[Unreleased]", "[0.1.0] - unreleased (2026-11-23)"])
def test_the_unreleased_section_may_name_its_version_already(heading: str) -> None:
    """Either way it becomes that of the release, with the day."""
    assert release.changelog(f"## {heading}\n\n- A.\n", "0.1.0", DAY) == f"## [0.1.0] - {DAY}\n\n- A.\n"


def test_what_is_left_to_do_says_whether_there_is_an_image(tmp_path: Path) -> None:
    """A release without one must not look like one with."""
    dist = tmp_path / "dist"
    assert "no dist/apiha-0.2.0-oci.tar was built" in release.left("0.2.0", dist)
    dist.mkdir()
    (dist / "apiha-0.2.0-oci.tar").touch()
    assert "skopeo copy oci-archive:dist/apiha-0.2.0-oci.tar" in release.left("0.2.0", dist)


@pytest.mark.parametrize("arguments", [[], ["one"], ["0.2"], ["0.2.0", "0.3.0"]])
def test_what_is_no_version_is_refused(arguments: list[str]) -> None:
    """A usage error."""
    assert release.main(arguments) == 2
