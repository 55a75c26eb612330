"""The Helm chart without Helm, which tests/e2e/test_chart.py has: written from the manifests, described by a schema."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tools import chart

VALUES = yaml.safe_load((chart.CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((chart.CHART / "values.schema.json").read_text(encoding="utf-8"))


def test_the_templates_are_those_of_the_manifests() -> None:
    """`make chart` would change nothing."""
    assert chart.main(["--check"]) == 0


def test_the_dashboard_of_the_chart_is_the_one_file() -> None:
    """A link: Helm follows it when it packs the chart."""
    link = chart.CHART / "files/apiha.json"
    assert link.is_symlink()
    assert link.resolve() == chart.REPOSITORY / "deploy/grafana/apiha.json"


def keys(document: dict[str, Any]) -> set[str]:
    """All keys of a tree of mappings, as paths."""
    found = set()
    for key, value in document.items():
        below = keys(value) if isinstance(value, dict) else set()
        found |= {key, *(f"{key}.{path}" for path in below)}
    return found


def described(schema: dict[str, Any]) -> set[str]:
    """All keys that a schema names."""
    schema = SCHEMA["definitions"]["switch"] if "$ref" in schema else schema
    found = set()
    for key, value in schema.get("properties", {}).items():
        found |= {key, *(f"{key}.{path}" for path in described(value))}
    return found


def test_the_schema_knows_every_value_and_no_other() -> None:
    """values.yaml names all that the schema allows. (`global` is Helm's own; a toleration is Kubernetes'.)"""
    allowed = {key for key in described(SCHEMA) if key != "global"}
    assert keys(VALUES) == allowed


def test_every_value_is_used() -> None:
    """Each leaf of values.yaml occurs in a template."""
    texts = "".join(path.read_text(encoding="utf-8") for path in (chart.CHART / "templates").iterdir())
    used = set(re.findall(r"\.(?:Values\.)?([a-zA-Z.]+)", texts))
    paths = keys(VALUES)
    leaves = {path for path in paths if not any(other.startswith(f"{path}.") for other in paths)}
    assert leaves - used == set()
