"""The wait for the VIP: when the node swaps, when it pins another control plane, what it says meanwhile."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import cast

import pytest

from apiha.config import Config
from apiha.errors import ConfigError, NoControlPlane, VipTimeout
from apiha.node.choice import PROOF, REFUSALS
from apiha.node.context import Node
from apiha.node.pin import pin
from apiha.node.reconcile import reconcile
from apiha.node.trial import PROOF_INTERVAL
from apiha.node.wait import RECHECK_INTERVAL, VIP_INTERVAL_MAX, bootstrap, wait_vip
from apiha.probe import Health, Prober
from tests.support.world import (
    ALIVE,
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
    events,
    with_config,
)


def test_the_vip_proves_itself_three_times(node: Node, world: World) -> None:
    """Exactly three good answers in a row, some tenths of a second apart, then the swap."""
    world.says(A, READY)
    world.says(VIP, REFUSED, READY)
    pin(node)
    assert wait_vip(node) == (VIP.address, A.address, B.address, C.address)
    asked = world.times(VIP)
    assert len(asked) == 1 + PROOF
    assert all(0.1 < later - earlier < 0.3 for earlier, later in pairwise(asked[1:]))


@pytest.mark.parametrize("bad", [REFUSED, TIMEOUT, UNTRUSTED, NOT_READY])
def test_two_in_a_row_are_not_enough(node: Node, world: World, bad: Health) -> None:
    """A VIP that fails every third time is never swapped to."""
    world.says(A, READY)
    world.says(VIP, *[READY, READY, bad] * 1000, bad)
    pin(node)
    with pytest.raises(VipTimeout):
        wait_vip(node, timeout=120.0)
    assert block(node)[0] == A.address


def test_the_time_limit_is_kept(node: Node, world: World) -> None:
    """VipTimeout comes when the time is up, not before and not after, and says what the VIP said last."""
    world.says(A, READY)
    for limit in (0.5, 7.3, 90.0):
        started = world.clock.time
        with pytest.raises(VipTimeout, match="refused it is"):
            wait_vip(node, timeout=limit)
        assert world.clock.time - started == pytest.approx(limit)


@pytest.mark.parametrize("after", [REFUSED, TIMEOUT, UNTRUSTED, NOT_READY])
def test_the_pinned_one_is_replaced_when_it_dies(node: Node, world: World, after: Health) -> None:
    """Within a check's interval the next one is pinned; the one that died is the last fallback unless it is genuine."""
    world.from_then_on(A, 10.0, READY, after)
    world.says(B, READY)
    seen: list[tuple[float, str]] = []
    world.answers[VIP] = lambda elapsed: seen.append((elapsed, block(node)[0])) or REFUSED  # type: ignore[func-returns-value]
    pin(node)
    with pytest.raises(VipTimeout):
        wait_vip(node, timeout=30.0)
    changed = next(when for when, first in seen if first == B.address)
    assert 10.0 <= changed <= 10.0 + RECHECK_INTERVAL + 2.5
    assert all(first == (A.address if when < changed else B.address) for when, first in seen)


def test_the_pinned_one_stays_when_it_hides_its_readiness(node: Node, world: World) -> None:
    """401 and 403 are no death."""
    world.says(A, READY, ALIVE)
    world.says(B, READY)
    pin(node)
    with pytest.raises(VipTimeout):
        wait_vip(node, timeout=30.0)
    assert block(node)[0] == A.address
    assert world.times(B) == []


def test_nobody_left_and_somebody_back(node: Node, world: World) -> None:
    """With nobody left the block stays; whoever returns first is pinned."""
    world.from_then_on(A, 5.0, READY, REFUSED)
    world.from_then_on(C, 20.0, REFUSED, READY)
    pin(node)
    with pytest.raises(VipTimeout):
        wait_vip(node, timeout=15.0)
    assert block(node)[0] == A.address
    with pytest.raises(VipTimeout):
        wait_vip(node, timeout=15.0)
    assert block(node)[0] == C.address


def test_a_wait_of_hours_is_cheap_and_quiet(node: Node, world: World, log: io.StringIO) -> None:
    """A silent VIP is asked every few seconds, the pinned one every three; the log gets a line a minute."""
    world.says(A, READY)
    pin(node)
    with pytest.raises(VipTimeout):
        wait_vip(node, timeout=10800.0)
    assert len(world.times(VIP)) < 10800 / VIP_INTERVAL_MAX * 1.2
    assert len(world.times(A)) <= 10800 / RECHECK_INTERVAL
    assert world.times(B) == world.times(C) == []
    lines = [event for event in events(log) if "does not answer yet" in event["message"]]
    assert 10800 / 66 <= len(lines) <= 10800 / 60 + 1


def test_states_that_alternate_are_said_once_a_minute_each(
    node: Node, world: World, log: io.StringIO
) -> None:
    """A VIP that leads to one that refuses and one that is not ready in turn fills no log."""
    world.says(A, READY)
    world.says(VIP, *[REFUSED, NOT_READY] * 1000)
    pin(node)
    with pytest.raises(VipTimeout):
        wait_vip(node, timeout=600.0)
    lines = [event for event in events(log) if "does not answer yet" in event["message"]]
    assert {"refused", "not-ready"} == {str(event["message"]).split("(")[1].split(":")[0] for event in lines}
    assert len(lines) <= 2 * (600 / 60 + 1)


def test_a_wait_of_hours_with_everything_dead_is_quiet_too(
    node: Node, world: World, log: io.StringIO
) -> None:
    """Nobody answers for hours: three kinds of line, each once a minute at most."""
    world.says(A, READY, REFUSED)
    pin(node)
    with pytest.raises(VipTimeout):
        wait_vip(node, timeout=7200.0)
    assert len(events(log)) <= 3 * (7200 / 60 + 2)


def test_wait_vip_on_an_empty_file_pins(node: Node, world: World) -> None:
    """Nothing pinned yet: that comes first."""
    world.says(B, READY)
    world.from_then_on(VIP, 5.0, REFUSED, READY)
    assert wait_vip(node)[0] == VIP.address
    assert world.times(B)[0] < 1.0


def test_wait_vip_leaves_a_vip_that_went_silent(node: Node, world: World) -> None:
    """The block says VIP and the VIP is silent: the node is pinned for the time being."""
    world.says(A, READY)
    world.says(VIP, READY)
    reconcile(node)
    assert block(node)[0] == VIP.address
    world.says(VIP, REFUSED)
    with pytest.raises(VipTimeout):
        wait_vip(node, timeout=5.0)
    assert block(node)[0] == A.address


@pytest.mark.parametrize("bad", [REFUSED, TIMEOUT, UNTRUSTED])
def test_wait_vip_keeps_a_vip_that_fails_twice_in_a_row(node: Node, world: World, bad: Health) -> None:
    """A swapped node gives the VIP up after three failures in a row (refusals: nine), as reconcile does; fewer move
    nothing.
    """
    enough = REFUSALS if bad is REFUSED else PROOF
    for endpoint in PLANES:
        world.says(endpoint, READY)
    node.hosts.pin(HOST, [VIP.address, A.address, B.address, C.address])
    was = node.hosts.path.stat()
    world.says(VIP, *[*[bad] * (enough - 1), READY] * 10, READY)
    assert wait_vip(node)[0] == VIP.address
    assert node.hosts.path.stat().st_mtime_ns == was.st_mtime_ns
    world.says(VIP, *[bad] * enough, READY)
    seen: list[str] = []
    answer = world.answers[VIP]
    world.answers[VIP] = lambda elapsed: seen.append(block(node)[0]) or answer(elapsed)  # type: ignore[func-returns-value]
    wait_vip(node)
    assert seen == [VIP.address] * enough + [A.address] * PROOF


def test_wait_vip_decides_about_a_swapped_block_within_two_seconds(node: Node, world: World) -> None:
    """At boot a block from before may still say VIP first, which is dead then: that is found out quickly."""
    world.says(A, READY)
    node.hosts.pin(HOST, [VIP.address, A.address])
    with pytest.raises(VipTimeout):
        wait_vip(node, timeout=REFUSALS * PROOF_INTERVAL * 1.1)
    assert block(node)[0] == A.address


def test_wait_vip_without_a_vip(node: Node, world: World) -> None:
    """A worker that stays with its control planes: nothing to wait for, nothing is asked, the block is as it was."""
    node.hosts.pin(HOST, [A.address, B.address])
    assert wait_vip(with_config(node, vip=None)) == (A.address, B.address)
    assert world.asked == []


def test_wait_vip_with_nothing_configured(node: Node) -> None:
    """No VIP, and no control plane to stay with: ConfigError, naming the key."""
    with pytest.raises(ConfigError, match="vip"):
        wait_vip(with_config(node, vip=None, control_plane=()))


def test_bootstrap_shares_one_time_limit(node: Node, world: World) -> None:
    """What the pin took is not there for the VIP any more."""
    world.from_then_on(A, 20.0, REFUSED, READY)
    with pytest.raises(VipTimeout):
        bootstrap(node, timeout=40.0)
    assert 40.0 <= world.elapsed <= 40.1
    assert block(node)[0] == A.address


def test_bootstrap_looks_at_the_vip_even_if_the_pin_took_all_the_time(node: Node, world: World) -> None:
    """A control plane that comes up in the last moment is pinned, and the end is a VipTimeout."""
    world.from_then_on(A, 39.99, REFUSED, READY)
    with pytest.raises((VipTimeout, NoControlPlane)):
        bootstrap(node, timeout=40.0)
    assert len(world.times(VIP)) <= 1


def test_bootstrap_without_a_limit_tries_once_to_pin(node: Node) -> None:
    """No limit is for the VIP; a pin that fails is an error at once."""
    with pytest.raises(NoControlPlane):
        bootstrap(node)


def test_a_control_plane_node_asks_nobody(node: Node, world: World) -> None:
    """Its own API server is not up yet when this runs, and that is no reason to wait."""
    with_config(node, role="control-plane")
    expected = ("127.0.0.1", A.address, B.address, C.address)
    assert (
        pin(node, wait=60.0) == bootstrap(node, timeout=60.0) == reconcile(node) == wait_vip(node) == expected
    )
    assert world.asked == []
    assert world.elapsed == 0


def test_a_missing_ca_is_waited_for(node: Node, world: World, log: io.StringIO) -> None:
    """Before `kubeadm join` there is no CA: the wait goes on, says so seldom, and ends with that if the time is up."""
    joined_after = 600.0

    def make(_: Config) -> Prober:
        if world.elapsed < joined_after:
            raise ConfigError("ca_file: not set, and no CA found")
        return cast(Prober, world)

    node.make_prober = make
    with pytest.raises(ConfigError, match="no CA found"):
        wait_vip(node, timeout=60.0)
    assert world.elapsed == pytest.approx(60.0)
    world.says(A, READY)
    world.says(VIP, READY)
    assert wait_vip(node)[0] == VIP.address
    assert joined_after <= world.elapsed <= joined_after + 10.0
    warnings = [event for event in events(log) if event["level"] == "warning"]
    assert len(warnings) <= 2 + 600 / 60


def test_not_ready_is_no_reason_to_pin_another_one(node: Node, world: World) -> None:
    """All control planes say 500: the pinned one stays, and so does a VIP that says 500 itself."""
    for endpoint in PLANES:
        world.says(endpoint, NOT_READY)
    for first, vip in (([C.address, A.address], REFUSED), ([VIP.address, A.address], NOT_READY)):
        world.says(VIP, vip)
        node.hosts.pin(HOST, first)
        with pytest.raises(VipTimeout):
            wait_vip(node, timeout=30.0)
        assert block(node) == first


def test_a_swap_is_decided_anew_if_another_run_changes_the_block(node: Node, world: World) -> None:
    """Nothing is written over what another run decided; the VIP proves itself once more."""
    node.hosts.pin(HOST, [A.address])
    for endpoint in PLANES:
        world.says(endpoint, READY)
    world.says(VIP, READY)
    left = [B.address, C.address]

    def another_run(_: float) -> Health:
        if left:
            node.hosts.pin(HOST, [left.pop(0)])
        return READY

    world.answers[C] = another_run  # asked when the swap looks at the fallbacks
    assert wait_vip(node)[0] == VIP.address
    assert left == []
    assert len(world.times(VIP)) == 3 * PROOF
