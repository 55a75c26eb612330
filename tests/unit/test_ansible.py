"""The Ansible role in `deploy/ansible` knows what apiha's own code says; the page on it names every variable."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from apiha import paths
from apiha.config import Config
from apiha.install.units import KUBELET_HTTP2, enableable
from apiha.userdata.pieces import ARCHIVE

REPOSITORY = Path(__file__).resolve().parents[2]
ROLE = REPOSITORY / "deploy/ansible/roles/apiha"
PAGE = (REPOSITORY / "docs/ansible.md").read_text(encoding="utf-8")


def read(name: str) -> Any:
    return yaml.safe_load((ROLE / name).read_text(encoding="utf-8"))


OPTIONS = read("meta/argument_specs.yml")["argument_specs"]["main"]["options"]


def test_the_role_knows_the_units_and_where_they_are() -> None:
    """Those that are started: what is enabled, but for what ends by itself or others start."""
    known = read("vars/main.yml")
    ends = {"apiha-vip.service", "apiha-failfast-refresh.service"}
    assert set(known["apiha_running"]) == set(enableable()) - ends
    assert known["apiha_http2"] == str(paths.UNIT_DIR / KUBELET_HTTP2)
    assert known["apiha_installed"] == str(paths.PROGRAM)
    assert known["apiha_kubelet_conf"] == str(paths.KUBELET_KUBECONFIG)
    assert known["apiha_kubelet_record"] == str(paths.KUBELET_RECORD)
    assert known["apiha_archive"] == str(ARCHIVE)


def test_the_defaults_are_those_of_the_specification() -> None:
    """Ansible takes a default from `defaults/main.yml` only; the specification is what people read."""
    specified = {name: option["default"] for name, option in OPTIONS.items() if "default" in option}
    assert read("defaults/main.yml") == specified
    assert OPTIONS["apiha_role"]["default"] == Config.role


def test_the_page_names_every_variable_with_its_default() -> None:
    """The table has those of the specification, and no others."""
    rows = re.findall(r"^\| (`apiha_[^|]*?) \| ([^|]*?) ?\| ", PAGE, re.MULTILINE)
    listed = {
        name: default
        for names, defaults in rows
        for name, default in zip(
            re.findall(r"`(\w+)`", names), [*re.findall(r"`([^`]*)`", defaults), *[""] * 9], strict=False
        )
    }
    assert set(listed) == set(OPTIONS)
    for name, option in OPTIONS.items():
        default = option.get("default", "")
        if default in ("", []) or "inventory_hostname" in str(default):
            continue
        assert yaml.safe_load(listed[name]) == default, name
