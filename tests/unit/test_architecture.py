"""docs/architecture.md shows every room there is, and each file and name that it gives exists."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
PLACES = sorted(set(re.findall(r"`((?:apiha|systemd|tests|tools)/[^`]+)`", PAGE)))
CONTRACTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]


def names_in(tree: ast.Module | ast.ClassDef) -> dict[str, ast.stmt]:
    """What a module or a class defines: functions, classes, assigned names."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("place", PLACES)
def test_each_place_that_the_page_names_exists(place: str) -> None:
    """`FILE`, `FILE:NAME`, `FILE:CLASS.NAME`, or `UNIT:SETTING`."""
    name, _, symbol = place.partition(":")
    path = REPOSITORY / name
    assert path.is_file(), name
    if not symbol:
        return
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        assert re.search(rf"^{symbol}=", text, re.MULTILINE), f"{name} sets no {symbol}"
        return
    scope: ast.Module | ast.ClassDef = ast.parse(text)
    for part in symbol.split("."):
        found = names_in(scope)
        assert part in found, f"{name} defines no {symbol}"
        node = found[part]
        if isinstance(node, ast.ClassDef):
            scope = node


def test_the_questions_of_a_newcomer_are_answered() -> None:
    """There are many places, so that the test above cannot pass for want of any."""
    assert len(PLACES) > 30
    for question in ("order", "401", "VIP up", "apiha status", "install", "time limit"):
        assert re.search(rf"^\| [^|]*{question}[^|]*\? \|", PAGE, re.MULTILINE), question


def test_the_picture_has_every_room() -> None:
    """Each package and each module of `apiha/` is in the picture, and so in the contract on layers."""
    picture = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
    rooms = {
        path.stem
        for path in (REPOSITORY / "apiha").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").is_file()) and not path.name.startswith("_")
    }
    assert sorted(room for room in rooms if not re.search(rf"\b{room}\b", picture)) == []


def test_the_modules_that_the_page_calls_pure_are_held_to_it() -> None:
    """Each of them is in the linter's contract."""
    [contract] = [each for each in CONTRACTS["contracts"] if each["name"].startswith("What decides")]
    table = PAGE.partition("These decide.")[2].partition("\n## ")[0]
    modules = {path.replace("/", ".") for path in re.findall(r"`(apiha/\w+(?:/\w+)?)\.py`", table)}
    assert len(modules) > 10
    assert modules - set(contract["source_modules"]) == set()
