"""The soak's own checks fail when they should, and its schedule can be repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from apiha.hosts import splice
from tests.soak.neighbour import HOST, Neighbour
from tests.soak.schedule import WEIGHTS, storm


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """A hosts file with a block of apiha's."""
    path = tmp_path / "hosts"
    path.write_bytes(b"127.0.0.1\tlocalhost\n")
    return path


def pin(path: Path, address: str) -> None:
    """Write the block as apiha would."""
    path.write_bytes(splice(path.read_bytes(), HOST, [address]).data)


def test_a_seed_gives_the_same_storm() -> None:
    """The same seed and cycle: the same events, in order of time; another seed or cycle: others."""
    assert storm(7, 3) == storm(7, 3)
    assert storm(7, 3) not in (storm(8, 3), storm(7, 4))
    assert [event.at for event in storm(7, 3)] == sorted(event.at for event in storm(7, 3))
    kinds = {event.kind for cycle in range(50) for event in storm(7, cycle)}
    assert kinds == {*WEIGHTS, "storm-end"}


def test_nothing_lost_is_not_reported(hosts: Path) -> None:
    """Lines of the neighbour's and blocks of apiha's, in any order, are no loss."""
    neighbour = Neighbour(hosts)
    for number in range(12):
        neighbour.append() if number % 3 else neighbour.write()
        pin(hosts, f"10.0.0.{number + 1}")
        assert neighbour.look() is None
    assert neighbour.writes == 12


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b"localhost", b"localhos", "outside the block changed"),
        (b"\tneighbour-1.example\n", b"", "outside the block changed"),
        (b"# END apiha\n", b"", "damaged"),
        (b"10.0.0.1\tapiserver", b"10.0.0.1\tapisorver", "damaged"),
    ],
)
def test_a_loss_is_reported(hosts: Path, before: bytes, after: bytes, words: str) -> None:
    """A byte or a line that is gone outside the block, or a block that is torn."""
    neighbour = Neighbour(hosts)
    neighbour.append()
    pin(hosts, "10.0.0.1")
    assert neighbour.look() is None
    hosts.write_bytes(hosts.read_bytes().replace(before, after))
    assert words in (neighbour.look() or "")


def test_a_missing_file_is_reported(hosts: Path) -> None:
    """No file at all."""
    neighbour = Neighbour(hosts)
    hosts.unlink()
    assert "gone" in (neighbour.look() or "")
