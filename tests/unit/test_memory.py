"""What a node remembers between runs: how it grows and forgets, what is on the disk, and what damage does."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.endpoint import Endpoint, parse_ip, parse_port
from apiha.node.memory import FILE, KEPT, MOST, Cluster, Memory, Seen, load, save

NOW = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["control_planes", "address", "port", "last_seen", "cluster", "uid", "ca"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)
endpoints = st.builds(Endpoint, st.integers(1, 250).map(lambda n: f"10.0.0.{n}"), st.just(6443))
times = st.integers(-90 * 24, 24).map(lambda hours: NOW + timedelta(hours=hours))


def as_older_releases_read_it(path: Path) -> list[Endpoint]:
    """The reader of release 0.1.0."""
    document = json.loads(path.read_bytes())
    return sorted(
        {Endpoint(parse_ip(e["address"]), parse_port(e["port"])) for e in document["control_planes"]}
    )


def test_kept_and_loaded(tmp_path: Path) -> None:
    """What is saved is loaded again, newest first; there is no other file afterwards."""
    state = tmp_path / "a" / "state"
    assert load(state) == Memory()
    old, new = Endpoint("fd00::1", 6443), Endpoint("10.0.0.2", 7443)
    memory = Memory((Seen(new, NOW), Seen(old, NOW - timedelta(days=2))), Cluster("uid-1", "sha256:abc"))
    save(state, memory)
    assert load(state) == memory
    assert not memory.worth_saving(load(state))
    assert [path.name for path in state.iterdir()] == [FILE]


@given(st.lists(endpoints, max_size=40, unique=True), st.data())
def test_an_older_release_reads_what_this_one_wrote_and_the_other_way_round(
    tmp_path_factory: pytest.TempPathFactory, planes: list[Endpoint], data: st.DataObject
) -> None:
    """An update and a downgrade find the addresses; without times those of the file count."""
    state = tmp_path_factory.mktemp("state")
    save(state, Memory().told(planes[:MOST], NOW))
    assert as_older_releases_read_it(state / FILE) == sorted(planes[:MOST])
    document = {"control_planes": [{"address": e.address, "port": e.port} for e in planes]}
    (state / FILE).write_text(json.dumps(document))
    os.utime(state / FILE, (NOW.timestamp(), NOW.timestamp()))
    memory = load(state)
    assert memory.damage is None
    assert set(memory.endpoints) <= set(planes)
    assert len(memory.seen) == min(MOST, len(planes))
    assert {seen.at for seen in memory.seen} <= {NOW}


@given(
    st.lists(st.builds(Seen, endpoints, times), max_size=40, unique_by=lambda seen: seen.endpoint),
    st.lists(endpoints, max_size=MOST, unique=True),
)
def test_learning_adds_and_forgets_by_age(before: list[Seen], told: list[Endpoint]) -> None:
    """Those named now are all there and newest; the others stay for 30 days, as long as there is room."""
    memory = Memory(tuple(before)).told(told, NOW)
    assert len(memory.seen) <= MOST
    assert set(told) <= set(memory.endpoints)
    assert [seen.at for seen in memory.seen] == sorted((seen.at for seen in memory.seen), reverse=True)
    assert all(NOW - KEPT <= seen.at <= NOW for seen in memory.seen)
    recent = {seen.endpoint for seen in before if NOW - seen.at <= KEPT} | set(told)
    assert set(memory.endpoints) <= recent
    if len(recent) <= MOST:
        assert set(memory.endpoints) == recent


def test_those_named_now_win_over_others_as_new() -> None:
    """A memory full of addresses seen just now, or in a future that a wrong clock made, does not shut a new one out."""
    planes = [Endpoint(f"10.0.0.{number}", 6443) for number in range(1, MOST + 1)]
    memory = Memory(
        tuple(Seen(plane, NOW + timedelta(days=number % 2)) for number, plane in enumerate(planes))
    )
    newcomer = Endpoint("10.0.0.90", 6443)
    assert newcomer in memory.told([newcomer], NOW).endpoints


def test_one_slice_during_maintenance_makes_a_node_forget_nobody() -> None:
    """Only one control plane is named for a week: the others are still known."""
    planes = [Endpoint(f"10.0.0.{number}", 6443) for number in (11, 12, 13)]
    memory = Memory().told(planes, NOW)
    for day in range(7):
        memory = memory.told(planes[:1], NOW + timedelta(days=day))
    assert set(memory.endpoints) == set(planes)


def test_the_disk_is_not_written_for_a_few_hours() -> None:
    """A pass each five minutes refreshes the times on the disk once a day, and writes at once what is new."""
    planes = [Endpoint("10.0.0.11", 6443)]
    kept = Memory().told(planes, NOW)
    assert not kept.told(planes, NOW + timedelta(hours=20)).worth_saving(kept)
    assert kept.told(planes, NOW + timedelta(hours=25)).worth_saving(kept)
    assert kept.told([Endpoint("10.0.0.12", 6443)], NOW).worth_saving(kept)
    assert Memory(kept.seen, Cluster("uid")).worth_saving(kept)


@given(JSON.map(json.dumps) | st.text(max_size=20) | st.just("[" * 10000))
def test_a_damaged_file_is_an_empty_memory(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """It is a cache: the configuration stands in for it, and it is written anew."""
    state = tmp_path_factory.mktemp("state")
    (state / FILE).write_bytes(text.encode("utf-8", "replace"))
    memory = load(state)
    assert memory.endpoints == ()
    fresh = memory.told([Endpoint("10.0.0.1", 6443)], NOW)
    assert fresh.worth_saving(memory)
    save(state, fresh)
    assert load(state).endpoints == (Endpoint("10.0.0.1", 6443),)


@pytest.mark.parametrize(
    "entry",
    [
        {"address": "10.0.0.1", "port": float("inf")},
        {"address": "10.0.0.1", "port": True},
        {"address": "10.0.0.1", "port": "6443"},
        {"address": ["10.0.0.1"], "port": 6443},
        {"address": "10.0.0.1", "port": 0},
        {"address": "10.0.0.1"},
    ],
)
def test_addresses_are_texts_and_ports_are_numbers(tmp_path: Path, entry: dict[str, Any]) -> None:
    """Anything else is damage, said in one line that names the file."""
    (tmp_path / FILE).write_text(json.dumps({"control_planes": [entry]}))
    damage = load(tmp_path).damage
    assert damage is not None
    assert damage.startswith(f"{tmp_path / FILE}: ")
    assert "\n" not in damage


@pytest.mark.parametrize(
    "last_seen", ["9999-12-31T23:59:59Z", "not a time", 1e300, None, "2026-13-45T99:99:99Z"]
)
def test_a_time_that_makes_no_sense_is_no_damage(tmp_path: Path, last_seen: object) -> None:
    """The clock may have been wrong when it was written: the address counts, and the next time is right."""
    entry = {"address": "10.0.0.1", "port": 6443, "last_seen": last_seen}
    (tmp_path / FILE).write_text(json.dumps({"control_planes": [entry]}))
    memory = load(tmp_path)
    assert memory.endpoints == (Endpoint("10.0.0.1", 6443),)
    assert all(seen.at <= NOW for seen in memory.told([], NOW).seen)
