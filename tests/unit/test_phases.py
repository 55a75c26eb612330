"""Decisions over time of pin, wait_vip, bootstrap and reconcile: the clock and the cluster follow a script."""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError, HostsConflict, NoControlPlane, VipTimeout
from apiha.hosts import HostsFile, current
from apiha.log import Reporter
from apiha.node.choice import PROOF
from apiha.node.context import Node, node_name
from apiha.node.learned import NotLearned, save_learned
from apiha.node.pin import pin, unpin
from apiha.node.reconcile import learn, reconcile
from apiha.node.trial import PROOF_INTERVAL, ask_vip
from apiha.node.wait import RECHECK_INTERVAL, VIP_INTERVAL_MAX, bootstrap, wait_vip
from apiha.probe import Health, Prober, ProbeResult, trial_order

HOST = "apiserver.cluster.local"
VIP = Endpoint("10.96.0.100", 6443)
PLANES = tuple(Endpoint(f"10.0.0.{number}", 6443) for number in (11, 12, 13))
A, B, C = trial_order("worker-1", PLANES)
READY, ALIVE, NOT_READY = Health.READY, Health.ALIVE, Health.NOT_READY
REFUSED, TIMEOUT, UNTRUSTED = Health.REFUSED, Health.TIMEOUT, Health.UNTRUSTED


class FakeClock:
    """Time passes when somebody sleeps, and at no other time."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        """Seconds."""
        return self.time

    def now(self) -> datetime:
        """The calendar time, as far from its start as the seconds are."""
        return datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=self.time)

    def sleep(self, seconds: float) -> None:
        """Let that much time pass at once."""
        self.sleeps.append(seconds)
        self.time += max(0.0, seconds)
        if len(self.sleeps) > 100_000:
            raise AssertionError("this never ends")


@dataclass
class World:
    """What each address answers, as a function of the seconds since the start; what was asked, and when."""

    clock: FakeClock = field(default_factory=FakeClock)
    answers: dict[Endpoint, Callable[[float], Health]] = field(default_factory=dict)
    asked: list[tuple[float, Endpoint]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start = self.clock.time

    @property
    def elapsed(self) -> float:
        """Seconds since the world was made."""
        return self.clock.time - self.start

    def says(self, endpoint: Endpoint, *healths: Health) -> None:
        """One answer after the other, the last one for ever."""
        left = list(healths)
        self.answers[endpoint] = lambda _: left.pop(0) if len(left) > 1 else left[0]

    def from_then_on(self, endpoint: Endpoint, seconds: float, before: Health, after: Health) -> None:
        """One answer until that many seconds have passed, another one after."""
        self.answers[endpoint] = lambda elapsed: before if elapsed < seconds else after

    def probe(self, endpoint: Endpoint) -> ProbeResult:
        """What `Prober.probe` would say."""
        self.asked.append((self.elapsed, endpoint))
        answer = self.answers.get(endpoint)
        health = answer(self.elapsed) if answer else REFUSED
        return ProbeResult(endpoint, health, latency=0.001, detail=f"{health.value} it is")

    def times(self, endpoint: Endpoint) -> list[float]:
        """When an address was asked."""
        return [when for when, who in self.asked if who == endpoint]


@pytest.fixture
def world() -> World:
    """Everything refuses until told otherwise."""
    return World()


@pytest.fixture
def log() -> io.StringIO:
    """What was said, as JSON lines."""
    return io.StringIO()


@pytest.fixture
def node(world: World, tmp_path: Path, log: io.StringIO) -> Node:
    """A worker in that world, with a VIP and three control planes configured."""

    @contextmanager
    def nobody(_: Config) -> Iterator[Prober]:
        raise ConfigError("no client certificate")
        yield

    (tmp_path / "hosts").write_bytes(b"127.0.0.1 localhost\n")
    return Node(
        config=Config(control_plane=PLANES, vip=VIP.address, hedge_delay=0.01, probe_timeout=0.5),
        hosts=HostsFile(tmp_path / "hosts", state_dir=tmp_path / "state"),
        name="worker-1",
        report=Reporter(log, log_format="json", verbose=True, clock=world.clock),
        state_dir=tmp_path / "state",
        clock=world.clock,
        rng=random.Random(1),
        make_prober=lambda _: cast(Prober, world),
        make_node_prober=cast(Callable[[Config], AbstractContextManager[Prober]], nobody),
    )


def block(node: Node) -> list[str]:
    """The addresses of the block."""
    return list(current(node.hosts.read(), HOST).addresses)


def with_config(node: Node, **settings: Any) -> Node:
    """The node with some settings changed."""
    from dataclasses import replace

    node.config = replace(node.config, **settings)
    return node


def events(log: io.StringIO) -> list[dict[str, Any]]:
    """Everything that was said."""
    return [json.loads(line) for line in log.getvalue().splitlines()]


# ------------------------------------------------------------------------------------------------- pin


def test_pin_takes_the_first_ready_one_and_asks_no_other(node: Node, world: World) -> None:
    """A healthy cluster sees one probe per pin."""
    for endpoint in PLANES:
        world.says(endpoint, READY)
    assert pin(node) == (A.address, B.address, C.address)
    assert [who for _, who in world.asked] == [A]
    assert world.clock.sleeps == []


def test_pin_puts_failed_ones_last(node: Node, world: World) -> None:
    """Who was seen dead comes after who was not even asked."""
    world.says(B, READY)
    assert pin(node) == (B.address, C.address, A.address)


def test_pin_without_an_answer_writes_nothing(node: Node, world: World) -> None:
    """NoControlPlane names every address with its reason."""
    world.says(B, UNTRUSTED)
    with pytest.raises(NoControlPlane) as caught:
        pin(node)
    assert all(str(endpoint) in str(caught.value) for endpoint in PLANES)
    assert block(node) == []


def test_pin_waits_with_backoff_and_jitter(node: Node, world: World) -> None:
    """Waits double from half a second up to five, half of each random, and end within the limit."""
    with pytest.raises(NoControlPlane):
        pin(node, wait=60.0)
    assert 59.9 <= world.elapsed <= 60.1
    for number, pause in enumerate(world.clock.sleeps[:-1]):
        span = min(5.0, 0.5 * 2**number)
        assert span / 2 <= pause <= span
    assert len(set(world.clock.sleeps)) == len(world.clock.sleeps)
    assert len(world.times(A)) == len(world.clock.sleeps) + 1  # the last try is at the very end


def test_pin_sees_who_comes_up(node: Node, world: World) -> None:
    """The wait ends with the first round that finds somebody."""
    world.from_then_on(C, 17.0, REFUSED, READY)
    assert pin(node, wait=60.0)[0] == C.address
    assert 17.0 <= world.elapsed <= 17.0 + 5.0


def test_each_round_makes_a_prober_anew(node: Node, world: World) -> None:
    """A CA that changes on disk during a wait is noticed; one that vanishes is an error at once."""
    made = 0

    def make(_: Config) -> Prober:
        nonlocal made
        made += 1
        if made == 3:
            raise ConfigError("ca_file: gone")
        return cast(Prober, world)

    node.make_prober = make
    with pytest.raises(ConfigError):
        pin(node, wait=60.0)
    assert made == 3


def test_pin_prefers_ready_to_hidden_to_not_ready(node: Node, world: World) -> None:
    """One that is not ready is taken only when nobody else is left, and a warning says so."""
    world.says(A, NOT_READY)
    world.says(B, ALIVE)
    assert pin(node)[0] == B.address
    world.says(C, READY)
    assert pin(node)[0] == C.address
    world.answers = {}
    world.says(B, NOT_READY)
    assert pin(node)[0] == B.address


def test_pin_refuses_a_conflict_without_asking_again(node: Node, world: World) -> None:
    """A foreign line is not waited for: it needs a person."""
    node.hosts.path.write_text(f"10.9.9.9 {HOST}\n")
    world.says(A, READY)
    with pytest.raises(HostsConflict):
        pin(node, wait=60.0)
    assert world.elapsed == 0


# ------------------------------------------------------------------------------------------------- wait_vip


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
    """A swapped node gives the VIP up after three failures in a row, as reconcile does: two move nothing."""
    for endpoint in PLANES:
        world.says(endpoint, READY)
    node.hosts.pin(HOST, [VIP.address, A.address, B.address, C.address])
    was = node.hosts.path.stat()
    world.says(VIP, *[bad, bad, READY] * 10, READY)
    assert wait_vip(node)[0] == VIP.address
    assert node.hosts.path.stat().st_mtime_ns == was.st_mtime_ns
    world.says(VIP, bad, bad, bad, READY)
    seen: list[str] = []
    answer = world.answers[VIP]
    world.answers[VIP] = lambda elapsed: seen.append(block(node)[0]) or answer(elapsed)  # type: ignore[func-returns-value]
    wait_vip(node)
    assert seen == [VIP.address] * PROOF + [A.address] * PROOF


def test_wait_vip_decides_about_a_swapped_block_within_a_second(node: Node, world: World) -> None:
    """At boot a block from before may still say VIP first, which is dead then: that is found out quickly."""
    world.says(A, READY)
    node.hosts.pin(HOST, [VIP.address, A.address])
    with pytest.raises(VipTimeout):
        wait_vip(node, timeout=PROOF * PROOF_INTERVAL * 1.1)
    assert block(node)[0] == A.address


def test_wait_vip_without_a_vip(node: Node) -> None:
    """No VIP configured: ConfigError, naming the key."""
    with pytest.raises(ConfigError, match="vip"):
        wait_vip(with_config(node, vip=None))


# ------------------------------------------------------------------------------------------------- bootstrap


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


# ------------------------------------------------------------------------------------------------- reconcile


@pytest.mark.parametrize(
    ("swapped", "answers", "usable"),
    [
        (True, "+", True),
        (True, "-+", True),
        (True, "--+", True),
        (True, "---", False),
        (False, "-", False),
        (False, "+-", False),
        (False, "++-", False),
        (False, "+++", True),
    ],
)
def test_vip_verdict(swapped: bool, answers: str, usable: bool) -> None:
    """A swapped node gives the VIP up after three failures, a pinned one takes it after three answers; no more probes
    than it takes to know.
    """
    left = list(answers)
    pauses: list[float] = []

    def probe() -> ProbeResult:
        return ProbeResult(VIP, READY if left.pop(0) == "+" else REFUSED)

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
    node.hosts.pin(HOST, [C.address, B.address, A.address])
    for endpoint in PLANES:
        world.says(endpoint, READY)
    was = node.hosts.read()
    reconcile(node)
    assert node.hosts.read() == was
    assert [who for _, who in world.asked] == [VIP, C]


def test_learned_control_planes_come_first_in_the_trial(node: Node, world: World) -> None:
    """What the cluster said last is tried before what the configuration says, each in this node's order."""
    fresh = [Endpoint(f"10.0.1.{number}", 6443) for number in (1, 2)]
    save_learned(node.state_dir, [*fresh, A])
    order = node.candidates()
    assert set(order[:3]) == {*fresh, A}
    assert order[3:] == tuple(endpoint for endpoint in (A, B, C) if endpoint != A)
    world.says(B, READY)
    assert pin(node)[0] == B.address


def test_trouble_with_learning_is_only_logged(node: Node, world: World, log: io.StringIO) -> None:
    """Whatever learning meets, the swap stands."""

    @contextmanager
    def broken(_: Config) -> Iterator[Prober]:
        raise NotLearned("HTTP 403")
        yield

    @contextmanager
    def unwritable(_: Config) -> Iterator[Prober]:
        raise PermissionError(13, "Permission denied")
        yield

    for maker in (broken, unwritable):
        node.make_node_prober = cast(Callable[[Config], AbstractContextManager[Prober]], maker)
        learn(node, VIP)
    levels = [event["level"] for event in events(log)]
    assert levels == ["debug", "debug"]


# ------------------------------------------------------------------------------------------------- unpin, the name


def test_unpin_says_what_it_did(node: Node, world: World, log: io.StringIO) -> None:
    """The block goes, the first bytes come back; a second time there is nothing to remove."""
    world.says(A, READY)
    was = node.hosts.read()
    pin(node)
    unpin(node.hosts, HOST, node.report)
    unpin(node.hosts, HOST, node.report)
    assert node.hosts.read() == was
    said = [event["message"].partition(str(node.hosts.path))[0] for event in events(log)]
    assert said[-2:] == ["removed the block from ", "there was no block in "]


@pytest.mark.parametrize(
    ("host", "machine_id", "expected"),
    [
        ("worker-1", "aaaa\n", "worker-1"),
        ("localhost", "aaaa\n", "aaaa"),
        ("localhost.localdomain", "aaaa\n", "aaaa"),
        ("(none)", "aaaa\n", "aaaa"),
        ("", "aaaa\n", "aaaa"),
        ("localhost", "", "localhost"),
        ("localhost", None, "localhost"),
    ],
)
def test_the_name_of_a_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, machine_id: str | None, expected: str
) -> None:
    """The host name; the machine id while the machine has no name of its own yet."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", host, "6.1", "#1", "x86_64")))
    if machine_id is not None:
        (tmp_path / "machine-id").write_text(machine_id)
    assert node_name(tmp_path / "machine-id") == expected
