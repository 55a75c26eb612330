"""A package takes over from `apiha install`: what goes, what stays, what is said. (tests/e2e/test_deb.py boots it.)"""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from apiha import paths
from apiha.install.install import install
from apiha.install.takeover import keep_config, take_over
from apiha.install.units import DROP_INS, KUBELET_HTTP2, UNITS
from apiha.log import Reporter

SETTINGS = {"control_plane": "10.0.0.11,10.0.0.12", "vip": "10.96.0.100"}


def below(root: Path, path: Path) -> Path:
    """Where a path of the machine lies."""
    return root / path.relative_to("/")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's disk with an installation as apiha.pyz makes it."""
    program = below(tmp_path, paths.PROGRAM)
    program.parent.mkdir(parents=True)
    program.write_bytes(b"#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(program)])
    install(Reporter(io.StringIO()), root=tmp_path, kubelet_http2=True, settings=SETTINGS)
    return tmp_path


def recorded(root: Path) -> set[str]:
    """What `install` still answers for."""
    return set(json.loads(below(root, paths.INSTALL_RECORD).read_text())["files"])


def test_units_go_configuration_and_the_drop_in_for_kubelet_stay(root: Path) -> None:
    """The package brings units of its own; dpkg keeps the configuration; the drop-in is `install`'s to remove."""
    config = below(root, paths.CONFIG_FILE).read_text()
    said = io.StringIO()
    take_over(Reporter(said), root=root)
    assert [n for n in (*UNITS, *DROP_INS) if below(root, paths.UNIT_DIR / n).exists()] == []
    assert not below(root, paths.UNIT_DIR / "apiha-.service.d").exists()
    assert below(root, paths.CONFIG_FILE).read_text() == config
    assert below(root, paths.UNIT_DIR / KUBELET_HTTP2).exists()
    assert str(paths.UNIT_DIR / KUBELET_HTTP2) in recorded(root)
    assert recorded(root) & {str(paths.CONFIG_FILE), *(str(paths.UNIT_DIR / unit) for unit in UNITS)} == set()
    assert "the package takes over" in said.getvalue()


def test_a_unit_that_was_edited_stays_and_is_named(root: Path) -> None:
    """It takes the place of the package's."""
    edited = below(root, paths.UNIT_DIR / "apiha-vip.service")
    edited.write_text(edited.read_text() + "# mine\n")
    said = io.StringIO()
    take_over(Reporter(said), root=root)
    assert edited.exists()
    assert f"kept {paths.UNIT_DIR / 'apiha-vip.service'}: it was changed" in said.getvalue()
    assert not below(root, paths.UNIT_DIR / "apiha-bootstrap.service").exists()


def test_a_second_time_nothing_happens(root: Path) -> None:
    """postinst runs at each upgrade."""
    take_over(Reporter(io.StringIO()), root=root)
    said = io.StringIO()
    take_over(Reporter(said), root=root)
    assert said.getvalue() == ""


def test_a_removal_leaves_the_configuration(root: Path) -> None:
    """`apiha uninstall` removes what is recorded: before the package goes, that is no longer the configuration."""
    keep_config(Reporter(io.StringIO()), root=root)
    assert str(paths.CONFIG_FILE) not in recorded(root)
    assert below(root, paths.CONFIG_FILE).exists()
