"""The code blocks of the documentation that tests/cluster runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.kubeadm import pages

TESTS = Path(__file__).resolve().parents[1]


def test_every_block_that_a_test_takes_is_marked() -> None:
    """A renamed mark fails here, not after minutes on a cluster."""
    sources = [*(TESTS / "cluster").glob("*.py"), TESTS / "support/kubeadm/cluster.py"]
    taken = {name for path in sources for name in re.findall(r"block\(\"([a-z0-9-]+)\"", path.read_text())}
    assert taken
    assert taken - set(pages.blocks()) == set()


def test_a_console_block_gives_its_commands() -> None:
    """Prompts go, and so does the output."""
    text = pages.block("manifests-result")
    assert [line.split()[0] for line in text.splitlines()] == ["kubectl"] * 3


def test_a_replacement_that_finds_nothing_is_an_error() -> None:
    """A page that changed its placeholders does not run half-filled commands."""
    with pytest.raises(ValueError, match="does not contain"):
        pages.block("manifests-result", {"no such text": ""})
