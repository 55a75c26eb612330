"""Writers killed at any moment, and many writers at once: the hosts file stays whole."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apiha.hosts import BlockChanged, HostsFile, current, splice
from apiha.hosts.text import render
from tests.support.mountns import mount, run

HOST = "apiserver.cluster.local"
KILLS = 220
WRITERS = 200
# A megabyte, so that there is a while in which a kill hits the writing itself.
ORIGINAL = (
    b"".join(b"0.0.0.0 ads-%07d.example\n" % number for number in range(40_000)) + b"\xff\xfe no newline"
)
# The block stands in front, so that a longer or shorter one moves every byte after it.
ADDRESSES = (["10.0.0.11"], ["10.96.0.100", "10.0.0.11", "10.0.0.12"])
STATES = tuple(splice(b"", HOST, addresses).data + ORIGINAL for addresses in ADDRESSES)


def fork(work: Callable[[], object]) -> int:
    """A child that does `work` and exits: 0, or 1 if that raised."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(sys.exc_info()[0] is not None)
    return child


def write_once(hosts: HostsFile, addresses: list[str], progress: int) -> None:
    """Write this state and wait to be killed; `progress` gets a byte before and one after."""
    os.write(progress, b"<")
    hosts.pin(HOST, addresses)
    os.write(progress, b">")
    signal.pause()


def hosts_file(path: Path) -> HostsFile:
    """The file as a run a minute later has it, which sweeps what this one leaves when it is killed."""
    return HostsFile(path, state_dir=path.parent / "state", now=lambda: time.time() + 61.0)


def kill_writers(
    path: Path, begun: Callable[[], bool], next_run: Callable[[], None], every: int, hit: Callable[[], bool]
) -> dict[str, int]:
    """Kill writers with SIGKILL at random moments around the one at which the file changes; KILLS times at least, and
    until the writing was `hit` (a busy machine runs us seldom at the right moment), or ten times as often.

    Where that moment lies after each has `begun` depends on the machine: what a kill finds tells whether the next one
    is to come later or sooner. The file is looked at after each, and must be whole after every `every`th one and the
    `next_run`.
    """
    hosts = hosts_file(path)
    path.write_bytes(STATES[0])
    render(HOST, ADDRESSES[0])  # imports once what each writer would
    rng = random.Random(1)
    delays = {True: 0.01, False: 0.01}  # seconds, of a writer that finds the file whole, and torn
    counts = {"kills": 0, "torn": 0, "first": 0, "second": 0, "leftovers": 0}
    for number in range(10 * KILLS):
        if number >= KILLS and hit():
            break
        before = path.read_bytes()
        whole = before in STATES
        target = 1 if before == STATES[0] else 0
        progress, writer = os.pipe()
        child = fork(lambda: write_once(hosts, ADDRESSES[target], writer))  # noqa: B023  # it runs before the next round
        os.close(writer)
        os.read(progress, 1)
        while not begun() and not select.select([progress], [], [], 0)[0]:
            pass
        end = time.monotonic() + rng.uniform(0.0, 2.0) * delays[whole]
        while time.monotonic() < end:  # sleep(3) is not exact enough
            pass
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        os.close(progress)
        counts["kills"] += 1
        found = path.read_bytes()
        if found == before:
            delays[whole] *= 1.2
        elif found == STATES[target]:
            delays[whole] /= 1.2
        counts["torn"] += found not in STATES
        counts["first"] += found == STATES[0]
        counts["second"] += found == STATES[1]
        counts["leftovers"] += any(name.startswith(".hosts.apiha-") for name in os.listdir(path.parent))
        if number % every:
            continue
        next_run()
        assert path.read_bytes() in STATES, "the hosts file is torn"
    hosts.unpin()
    assert path.read_bytes() == ORIGINAL
    assert os.listdir(path.parent) == ["hosts"]
    return counts


def killed_before_the_rename(folder: Path) -> dict[str, Any]:
    path = folder / "hosts"
    path.write_bytes(ORIGINAL)
    return kill_writers(path, lambda: True, lambda: None, every=1, hit=lambda: True)


def test_a_killed_writer_never_leaves_a_torn_file(in_memory: Path) -> None:
    """220 SIGKILLs at random moments of writing: always all of the old bytes or all of the new ones."""
    counts = run(killed_before_the_rename, in_memory, namespace=False)
    assert counts["kills"] == KILLS
    assert counts["torn"] == 0
    assert counts["leftovers"] > 0, f"the kills missed the writing: {counts}"
    assert min(counts["first"], counts["second"]) > 0, counts


def killed_in_place(folder: Path) -> dict[str, Any]:
    mount("-t", "tmpfs", "none", folder)  # quick, so that the kills are spread over many writes
    path = folder / "etc" / "hosts"
    path.parent.mkdir()
    path.touch()
    source = folder / "source"
    source.write_bytes(ORIGINAL)
    mount("--bind", source, path)
    recovered: list[str] = []

    def next_run() -> None:
        change = HostsFile(path, state_dir=path.parent / "state").pin(HOST, ADDRESSES[0])
        recovered.extend([change.recovered] if change.recovered else [])

    # The backup is there from before the first byte is written until after the last one.
    # Every other writer finds what the last one left, and may be killed while it makes that good.
    backup = f"{path}.apiha-backup"
    counts = kill_writers(
        path, lambda: os.path.lexists(backup), next_run, every=2, hit=lambda: bool(recovered)
    )
    assert path.stat().st_ino == source.stat().st_ino
    return {**counts, "recovered": len(recovered), "words": sorted(set(recovered))}


def test_a_writer_killed_in_place_is_made_good_by_the_next_run(tmp_path: Path) -> None:
    """A bind-mounted file cannot be replaced: a kill may tear it; the next run restores it and says so."""
    counts = run(killed_in_place, tmp_path)
    assert counts["kills"] >= KILLS
    assert 0 < counts["recovered"] <= counts["torn"], f"the kills missed the writing: {counts}"
    assert len(counts["words"]) == 1
    assert counts["words"][0].endswith(
        "was half written by a run that was killed: its bytes of before are restored"
    )


def many_at_once(path: Path, write: Callable[[HostsFile, int], object], writers: int = WRITERS) -> list[int]:
    """Let that many processes go at the same moment; returns their exit codes."""
    hosts = HostsFile(path, state_dir=path.parent / "state")
    gate, open_gate = os.pipe()

    def work(number: int) -> None:
        os.close(open_gate)
        os.read(gate, 1)  # end of file, for all of them at once
        write(hosts, number)

    children = [fork(lambda number=number: work(number)) for number in range(writers)]  # type: ignore[misc]
    os.close(open_gate)
    os.close(gate)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def concurrent(folder: Path) -> dict[str, Any]:
    path = folder / "hosts"
    render(HOST, ["10.0.0.1"])  # imports once what each process would
    original = b"127.0.0.1 localhost\n10.0.0.9 db " + HOST.encode() + b"\n# no newline"
    path.write_bytes(original)

    def pin(hosts: HostsFile, number: int) -> object:
        return hosts.pin(HOST, [f"10.0.{number}.1", f"10.0.{number}.2"], "adopt", lock_timeout=60)

    codes = many_at_once(path, pin)
    state = current(path.read_bytes(), HOST)
    beside = os.listdir(folder)
    HostsFile(path).unpin()
    return {
        "failed": sum(map(bool, codes)),
        "addresses": state.addresses,
        "damage": state.damage,
        "beside": beside,
        "restored": path.read_bytes() == original,
    }


def test_two_hundred_processes_leave_one_valid_block(in_memory: Path) -> None:
    """Each one succeeds, the block is that of one of them, and the first bytes come back."""
    result = run(concurrent, in_memory, namespace=False)
    number = result["addresses"][0].split(".")[2]
    assert result == {
        "failed": 0,
        "addresses": [f"10.0.{number}.1", f"10.0.{number}.2"],
        "damage": [],
        "beside": ["hosts"],
        "restored": True,
    }


def concurrent_decisions(folder: Path) -> dict[str, Any]:
    path = folder / "hosts"
    render(HOST, ["10.0.0.1"])
    path.write_bytes(b"")

    def append(hosts: HostsFile, number: int) -> None:
        """Put an address of its own behind those that the block has: a decision made from the block."""
        while True:
            block = current(hosts.read(), HOST).addresses
            try:
                hosts.pin(HOST, [*block, f"10.0.0.{number}"], expected=block, lock_timeout=60)
                return
            except BlockChanged:
                continue

    codes = many_at_once(path, append, writers=50)
    return {"failed": sum(map(bool, codes)), "addresses": sorted(current(path.read_bytes(), HOST).addresses)}


def test_no_decision_of_fifty_is_undone(in_memory: Path) -> None:
    """Each process adds to what it read: all additions are in the file, since none was written over another block."""
    assert run(concurrent_decisions, in_memory, namespace=False) == {
        "failed": 0,
        "addresses": sorted(f"10.0.0.{number}" for number in range(50)),
    }
