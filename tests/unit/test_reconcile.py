"""Reconcile: what one pass decides, and that it leaves alone what is good."""

from __future__ import annotations

import io

import pytest

from apiha.endpoint import Endpoint
from apiha.errors import NoControlPlane
from apiha.hosts import BlockChanged
from apiha.node.context import Node
from apiha.node.reconcile import reconcile, settle
from apiha.node.trial import ask_vip
from apiha.probe import Health, ProbeResult
from tests.support.world import (
    HOST,
    NOT_READY,
    PLANES,
    READY,
    REFUSED,
    TIMEOUT,
    UNTRUSTED,
    VIP,
    A,
    B,
    C,
    World,
    block,
    with_config,
)


@pytest.mark.parametrize(
    ("swapped", "answers", "usable"),
    [
        (True, "+", True),
        (True, "-+", True),
        (True, "--+", True),
        (True, "--------+", True),
        (True, "---------", False),
        (True, "ttt", False),
        (True, "-t-t-t", False),
        (False, "-", False),
        (False, "+-", False),
        (False, "++-", False),
        (False, "+++", True),
    ],
)
def test_vip_verdict(swapped: bool, answers: str, usable: bool) -> None:
    """A swapped node gives the VIP up after three failures (t) or nine refusals (-), a pinned one takes it after three
    answers; no more probes than it takes to know.
    """
    left = list(answers)
    pauses: list[float] = []

    def probe() -> ProbeResult:
        return ProbeResult(VIP, {"+": READY, "-": REFUSED, "t": TIMEOUT}[left.pop(0)])

    assert ask_vip(probe, swapped=swapped, pause=pauses.append).health.usable is usable
    assert left == []
    assert len(pauses) == len(answers) - 1


@pytest.mark.parametrize("before", ["nothing", "pinned", "swapped", "stale"])
@pytest.mark.parametrize("vip", [READY, REFUSED])
@pytest.mark.parametrize(
    "planes", [(READY, READY, READY), (REFUSED, READY, READY), (REFUSED, REFUSED, REFUSED)]
)
def test_reconcile_decides_by_what_answers(
    node: Node, world: World, before: str, vip: Health, planes: tuple[Health, ...]
) -> None:
    """From every state: VIP first if it answers, else a live control plane, else nothing changes; then again, without
    a write.
    """
    first = {"nothing": [], "pinned": [A.address], "swapped": [VIP.address], "stale": ["10.9.9.9"]}[before]
    if first:
        rest = [e.address for e in (A, B, C) if e.address not in first]
        node.hosts.pin(HOST, [*first, *rest])
    world.says(VIP, vip)
    for endpoint, health in zip((A, B, C), planes, strict=True):
        world.says(endpoint, health)
    was = node.hosts.read()
    if vip is REFUSED and planes[1] is REFUSED:
        with pytest.raises(NoControlPlane):
            reconcile(node)
        assert node.hosts.read() == was
        return
    reconcile(node)
    live = A if planes[0] is READY else B
    assert block(node)[0] == (VIP.address if vip is READY else live.address)
    assert set(block(node)) - {VIP.address} == {e.address for e in PLANES}
    status = node.hosts.path.stat()
    reconcile(node)
    assert node.hosts.path.stat().st_ino == status.st_ino
    assert node.hosts.path.stat().st_mtime_ns == status.st_mtime_ns


def test_reconcile_keeps_a_live_pinned_one_whatever_the_order_says(node: Node, world: World) -> None:
    """A usable control plane in the first place is not changed for one that this node would try earlier."""
    node.hosts.pin(HOST, [C.address, B.address, A.address, VIP.address])
    for endpoint in PLANES:
        world.says(endpoint, READY)
    was = node.hosts.read()
    reconcile(node)
    assert node.hosts.read() == was
    assert [who for _, who in world.asked][:2] == [VIP, C]


# ------------------------------------------------------------------------------------------------- another run


@pytest.mark.parametrize("times", [1, 4])
def test_what_was_decided_from_a_block_is_not_written_over_another_one(
    node: Node, world: World, log: io.StringIO, times: int
) -> None:
    """The VIP comes up and another run swaps while this one waits for its time-out: the swap stands."""
    pinned, swapped = (
        (A.address, B.address, C.address, VIP.address),
        (VIP.address, *(e.address for e in PLANES)),
    )
    node.hosts.pin(HOST, pinned)
    for endpoint in PLANES:
        world.says(endpoint, READY)
    left = [swapped, pinned, swapped, pinned][:times]

    def silent_while_another_run_writes(_: float) -> Health:
        if left:
            node.hosts.pin(HOST, left.pop(0))
            return TIMEOUT
        return READY

    world.answers[VIP] = silent_while_another_run_writes
    reconcile(node)
    assert block(node)[0] == VIP.address
    assert "another run changed the block" in log.getvalue()


def test_a_block_that_never_stands_still_is_an_error(node: Node, world: World) -> None:
    """After a few decisions the pass ends; nothing was written over what others wrote."""
    world.says(A, READY)
    addresses = [f"10.7.0.{number}" for number in range(1, 200)]
    world.answers[VIP] = lambda _: (node.hosts.pin(HOST, [addresses.pop()]) and REFUSED) or REFUSED
    with pytest.raises(BlockChanged):
        reconcile(node)
    assert block(node)[0].startswith("10.7.0.")


# ------------------------------------------------------------------------------------------------- not ready


@pytest.mark.parametrize("first", [VIP, A])
@pytest.mark.parametrize("vip", [NOT_READY, REFUSED])
def test_an_etcd_brown_out_moves_nobody(node: Node, world: World, first: Endpoint, vip: Health) -> None:
    """All API servers say 500: a genuine address that comes first keeps its place."""
    rest = [e.address for e in (A, B, C) if e != first]
    node.hosts.pin(HOST, [first.address, *rest, *([] if first == VIP else [VIP.address])])
    for endpoint in PLANES:
        world.says(endpoint, NOT_READY)
    world.says(VIP, vip)
    was = node.hosts.read()
    reconcile(node)
    if first == VIP and vip is REFUSED:
        assert block(node)[0] != VIP.address  # dead is worse than not ready
    else:
        assert node.hosts.read() == was


def test_a_vip_that_is_not_ready_loses_to_a_control_plane_that_is(node: Node, world: World) -> None:
    """One that is ready is a reason to move."""
    node.hosts.pin(HOST, [VIP.address, A.address, B.address, C.address])
    world.says(VIP, NOT_READY)
    world.says(A, NOT_READY)
    world.says(B, READY)
    reconcile(node)
    assert block(node)[0] == B.address


def test_one_failure_of_a_genuine_server_among_three_keeps_the_vip(node: Node, world: World) -> None:
    """Behind the VIP one is dead and the others are not ready, as are all control planes: the VIP keeps its place."""
    node.hosts.pin(HOST, [VIP.address, A.address, B.address, C.address])
    world.says(VIP, NOT_READY, TIMEOUT, TIMEOUT)
    world.says(B, NOT_READY)
    world.says(C, NOT_READY)
    reconcile(node)
    assert block(node)[0] == VIP.address


# ------------------------------------------------------------------------------------------------- fallbacks


@pytest.mark.parametrize("bad", [UNTRUSTED, Health.BROKEN])
@pytest.mark.parametrize("vip", [READY, REFUSED])
def test_what_is_no_api_server_of_ours_leaves_the_block(
    node: Node, world: World, bad: Health, vip: Health
) -> None:
    """A client that connects to it goes no further: it is no fallback, until it proves itself again."""
    world.says(VIP, vip)
    world.says(A, READY)
    world.says(B, bad)
    world.says(C, READY)
    node.hosts.pin(HOST, [A.address, B.address, C.address, VIP.address])
    reconcile(node)
    assert B.address not in block(node)
    assert {A.address, C.address, VIP.address} == set(block(node))
    world.says(B, READY)
    reconcile(node)
    assert B.address in block(node)


def test_a_pinned_block_ends_with_the_vip(node: Node, world: World) -> None:
    """The copies of the block that host-network Pods keep hold the VIP, whatever becomes of the control planes."""
    world.says(A, READY)
    reconcile(node)
    assert block(node) == [A.address, B.address, C.address, VIP.address]
    with_config(node, fallbacks=False)
    reconcile(node)
    assert block(node) == [A.address]


def test_the_block_is_a_candidate_of_its_own(node: Node, world: World) -> None:
    """A control plane that only the block names is found; the block keeps no other address that nothing else names."""
    node.hosts.pin(HOST, [VIP.address, "10.0.9.1", "10.0.9.2"])
    world.says(Endpoint("10.0.9.2", 6443), READY)
    reconcile(node)
    assert block(node)[0] == "10.0.9.2"
    assert set(block(node)[1:]) == {VIP.address, *(endpoint.address for endpoint in PLANES)}


def test_a_pass_waits_until_the_file_has_settled(node: Node, world: World) -> None:
    """A second; more and more while another program keeps taking the block away, but never over half a minute."""
    node.hosts.state_dir.mkdir(exist_ok=True)
    for _ in range(20):
        settle(node)
        node.hosts.pin(HOST, [A.address])
        node.hosts.path.write_bytes(b"")
    assert world.clock.sleeps[:3] == [1.0, 1.0, 1.0]
    assert world.clock.sleeps[11:] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
