"""How the repository is kept: sizes, one version, one homepage, locks that agree, hooks that run `make lint`."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from apiha import HOMEPAGE, __version__
from tools import version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted((REPOSITORY / "apiha").rglob("*.py"))
SUPPORT = sorted((REPOSITORY / "tests/support").rglob("*.py"))
LONGEST_MODULE, LONGEST_CLASS = 400, 250  # lines
LOCKS = (
    "requirements-dev.lock",
    "requirements-updater.lock",
    "requirements-node.lock",
    "requirements-wheel.lock",
)


def text(name: str) -> str:
    """A file of the repository."""
    return (REPOSITORY / name).read_text(encoding="utf-8")


def names(paths: list[Path]) -> list[str]:
    """How a test of each file is called."""
    return [str(path.relative_to(REPOSITORY)) for path in paths]


# --------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_no_module_and_no_class_is_too_long(path: Path) -> None:
    """At most 400 lines a module and 250 a class, unless its docstring says `Longer than N lines: ` and why."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    sizes: list[tuple[str, int, int, str]] = [
        (path.name, len(source.splitlines()), LONGEST_MODULE, ast.get_docstring(tree) or "")
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            sizes.append((node.name, lines, LONGEST_CLASS, ast.get_docstring(node) or ""))
    assert [
        f"{name}: {lines} lines"
        for name, lines, limit, docstring in sizes
        if lines > limit and f"Longer than {limit} lines: " not in docstring
    ] == []


@pytest.mark.parametrize("path", SUPPORT, ids=names(SUPPORT))
def test_no_module_that_tests_stand_on_is_too_long(path: Path) -> None:
    """At most 400 lines."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


# ------------------------------------------------------------------------------------- the version, the homepage


def test_the_version_is_the_same_wherever_it_is_quoted() -> None:
    """`tools/version.py` finds no place that quotes another one, and the changelog begins with it."""
    assert version.current() == __version__
    assert version.stale(__version__) == []
    headings = re.findall(r"^## \[([^\]]+)\]", text("CHANGELOG.md"), re.MULTILINE)
    assert next(heading for heading in headings if heading != "Unreleased") == __version__


def test_another_version_is_written_wherever_it_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The source, an image, a wheel; what is no version of apiha stays, and so does the rest of the file."""
    (tmp_path / "apiha").mkdir()
    (tmp_path / "docs").mkdir()
    source, page = tmp_path / "apiha/__init__.py", tmp_path / "docs/cluster.md"
    source.write_text('"""x"""\n__version__ = "0.1.0"\n')
    page.write_text(
        "apiha:0.1.0, apiha-0.1.0-py3-none-any.whl, apiha:0.0.9, Kubernetes 1.36.0, other:0.1.0\n"
    )
    monkeypatch.setattr(version, "REPOSITORY", tmp_path)
    monkeypatch.setattr(version, "SOURCE", source)
    assert version.main([]) == 1
    assert capsys.readouterr().out == "docs/cluster.md:1: apiha:0.0.9, and the version is 0.1.0\n"
    assert version.main(["0.2.0"]) == 0
    assert capsys.readouterr().out == "apiha/__init__.py\ndocs/cluster.md\n"
    assert source.read_text() == '"""x"""\n__version__ = "0.2.0"\n'
    assert page.read_text() == (
        "apiha:0.2.0, apiha-0.2.0-py3-none-any.whl, apiha:0.2.0, Kubernetes 1.36.0, other:0.1.0\n"
    )
    assert version.main([]) == 0
    assert version.main(["two"]) == 2


def test_every_address_of_the_project_is_below_its_homepage() -> None:
    """`[project.urls]`, the security policy and the links that apiha prints all name the same repository."""
    urls: dict[str, str] = PROJECT["project"]["urls"]
    assert urls["Homepage"] == HOMEPAGE
    assert [url for url in urls.values() if not url.startswith(HOMEPAGE)] == []
    for page in ("SECURITY.md", "docs/security.md"):
        assert f"<{HOMEPAGE}/security/advisories/new>" in text(page)
    assert f"git clone {HOMEPAGE} " in text("CONTRIBUTING.md")


@pytest.mark.parametrize("label", ["Documentation", "Changelog"])
def test_the_addresses_of_pages_lead_to_files(label: str) -> None:
    """What stands behind `/blob/main/` is there."""
    url: str = PROJECT["project"]["urls"][label]
    assert (REPOSITORY / url.removeprefix(f"{HOMEPAGE}/blob/main/")).is_file()


# ----------------------------------------------------------------------------------------------------- the locks


def pins(name: str) -> dict[str, set[str]]:
    """The lines of a lock, `NAME==VERSION ; MARKER`, each with its hashes."""
    found: dict[str, set[str]] = {}
    pin = ""
    for line in text(name).splitlines():
        if "==" in line and not line.startswith((" ", "#")):
            pin = line.removesuffix(" \\")
            found[pin] = set()
        elif "--hash=" in line:
            found[pin].add(line.strip().removesuffix(" \\"))
    return found


@pytest.mark.parametrize("name", LOCKS[1:])
def test_the_image_runs_the_versions_that_the_tests_ran_with(name: str) -> None:
    """The smaller locks are parts of the development lock, to the hash. (Markers may differ: they are simplified.)"""

    def versions(lock: str) -> dict[str, set[str]]:
        return {pin.partition(" ")[0]: hashes for pin, hashes in pins(lock).items()}

    whole = versions(LOCKS[0])
    assert {pin: hashes for pin, hashes in versions(name).items() if whole.get(pin) != hashes} == {}


def test_a_pin_names_the_extras_that_are_asked_for() -> None:
    """With hashes pip looks for `coverage[toml]` apart from a pinned `coverage`, and refuses a newer release."""
    asked = [
        requirement
        for distribution in importlib.metadata.distributions()
        for requirement in map(Requirement, distribution.requires or ())
        if requirement.extras and (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
    ]
    pinned = {Requirement(pin).name: Requirement(pin).extras for pin in pins(LOCKS[0])}
    missing = [str(one) for one in asked if one.name in pinned and not one.extras <= pinned[one.name]]
    assert asked
    assert missing == []


def test_everything_that_pyproject_names_is_locked() -> None:
    """Whoever adds a dependency runs `make lock`."""

    def needed(*lists: list[Any]) -> set[str]:
        words = [re.match(r"[\w-]+", line) for found in lists for line in found if isinstance(line, str)]
        return {word.group().lower() for word in words if word is not None}

    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    node = needed(project["dependencies"])
    updater = node | needed(project["optional-dependencies"]["updater"])
    for name, wanted in zip(
        LOCKS, (updater | needed(groups["dev"]), updater, node, needed(groups["wheel"])), strict=True
    ):
        assert wanted - {Requirement(pin).name for pin in pins(name)} == set(), name
    assert (
        needed(groups["ansible"]) - {Requirement(pin).name for pin in pins("requirements-ansible.lock")}
        == set()
    )


def test_the_image_is_built_from_files_of_its_build_context() -> None:
    """`.dockerignore` lets through what the Containerfile copies, and the sdist brings it along."""
    copied = [
        source
        for line in text("Containerfile").splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    allowed = [line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(allowed)
    shipped = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    built_in = {"pyproject.toml"}  # hatchling adds it by itself
    assert [
        name for name in copied if name not in built_in and f"/{name.partition('/')[0]}" not in shipped
    ] == []


# ----------------------------------------------------------------------------------------------------- the hooks


def test_the_hooks_before_a_commit_run_what_make_lint_runs() -> None:
    """One hook for each target that `lint` depends on, in the same order."""
    found = re.search(r"^lint: ([a-z -]+) ##", text("Makefile"), re.MULTILINE)
    assert found is not None
    hooks = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == [f"make --silent {target}" for target in found[1].split()]


def test_the_targets_that_contributing_names_exist() -> None:
    """Every `make TARGET` of CONTRIBUTING.md and README.md is one of the Makefile."""
    targets = set(re.findall(r"^([a-z0-9-]+):", text("Makefile"), re.MULTILINE))
    for page in ("CONTRIBUTING.md", "README.md"):
        code = re.findall(r"`([^`]+)`|^    (.*)$", text(page), re.MULTILINE)
        named = {
            target for pair in code for target in re.findall(r"\bmake ([a-z][a-z0-9-]*)", " ".join(pair))
        }
        assert named
        assert named - targets == set(), page
