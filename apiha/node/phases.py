"""Pin, wait for the VIP, swap, reconcile: the one module that combines configuration, probes, choice and hosts file.

Pin: point the name at a live control plane. Swap: point it at the VIP. A node pins before kubelet starts, because the
Service rules that make the VIP answer are written by kube-proxy, which kubelet starts; it swaps once the VIP has
proved itself.
"""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from apiha.clock import Clock, SystemClock, backoff
from apiha.config import Config, require_control_plane, require_vip
from apiha.durations import format_duration
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError, NoControlPlane, VipTimeout
from apiha.hosts import Change, HostsFile, current
from apiha.log import Reporter
from apiha.node.choice import Race, VipProof, addresses_for_block
from apiha.node.learned import (
    NotLearned,
    fetch_control_planes,
    load_learned,
    node_prober,
    save_learned,
)
from apiha.paths import STATE_DIR
from apiha.probe import Health, Prober, ProbeResult, probe_all, trial_order

LOOPBACK = "127.0.0.1"  # where a control-plane node's own API server answers
VIP_INTERVAL = 1.0  # seconds between two looks at a VIP that does not answer yet
VIP_INTERVAL_MAX = 5.0  # ... once it has been silent for a while; nothing on the cluster waits for us
PROOF_INTERVAL = 0.2  # seconds between the answers that prove a VIP
RECHECK_INTERVAL = 3.0  # seconds between two looks at the pinned control plane; a handshake each, so not less
RECHECK_INTERVAL_MAX = 30.0  # ... once the wait is long: ten thousand workers may wait for the same VIP
LAST_TRY = 1.0  # seconds that a try gets which starts when the time is nearly up
STILL_WAITING_INTERVAL = 60.0  # seconds between two log lines of a wait in which nothing changes


@dataclass
class Node:
    """What a run works with; everything that touches the world is handed in.

    `make_prober` is called anew for each round of a wait, so that a CA or certificate that changes on disk is noticed.
    """

    config: Config
    hosts: HostsFile
    name: str
    report: Reporter
    state_dir: Path = STATE_DIR
    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)
    make_prober: Callable[[Config], Prober] = Prober.from_config
    make_node_prober: Callable[[Config], AbstractContextManager[Prober]] = node_prober

    def candidates(self) -> tuple[Endpoint, ...]:
        """All control planes this node knows, in its order of trial: those learned from the cluster, then the
        configured ones that the cluster does not name (it may have lost them, or they are its last way back).
        """
        learned, unknown = self._known()
        return learned + unknown

    def vip_first(self, vip: Endpoint, block: tuple[str, ...]) -> tuple[str, ...]:
        """The addresses of a block that says VIP first. After it the groups of `candidates`, each in the order that
        `block` has now, where the pinned one comes first and those found dead come last.
        """
        place = {address: index for index, address in enumerate(block)}

        def rank(endpoint: Endpoint) -> int:
            return place.get(endpoint.address, len(place))

        rest = [endpoint for group in self._known() for endpoint in sorted(group, key=rank)]
        return addresses_for_block(vip.address, rest, fallbacks=self.config.fallbacks)

    def _known(self) -> tuple[tuple[Endpoint, ...], tuple[Endpoint, ...]]:
        """The learned control planes and the configured ones that are not among them, each in the order of trial."""
        # A hosts file carries no port: where API servers listen on another one than clients dial (behind a VIP that
        # translates), their addresses are of no use in it, unless the configuration itself names such a port.
        ports = {self.config.port, *(endpoint.port for endpoint in self.config.control_plane)}
        learned = [endpoint for endpoint in load_learned(self.state_dir) if endpoint.port in ports]
        unknown = [endpoint for endpoint in self.config.control_plane if endpoint not in learned]
        return trial_order(self.name, learned), trial_order(self.name, unknown)


def find_live(
    probe: Callable[[Endpoint], ProbeResult], race: Race, clock: Clock, *, until: float | None = None
) -> ProbeResult | None:
    """Run the race with real probes; the winner, or None. `until` (monotonic seconds) ends it early.

    Probes that lost go on in daemon threads until their own time limit; nobody waits for them.
    """
    answers: queue.SimpleQueue[ProbeResult] = queue.SimpleQueue()
    while True:
        now = clock.monotonic()
        race.expire(now)
        if race.done(now) or (until is not None and now >= until):
            return race.outcome()
        while (candidate := race.due(now)) is not None:
            threading.Thread(target=lambda e=candidate: answers.put(probe(e)), daemon=True).start()
        wake = race.next_event() if until is None else min(race.next_event(), until)
        try:
            race.observe(answers.get(timeout=max(0.0, wake - clock.monotonic())))
        except queue.Empty:
            continue


def pin(node: Node, *, address: str | None = None, wait: float = 0.0) -> tuple[str, ...]:
    """Point the name at a live control plane, the others after it; returns the addresses of the block.

    `address` asks for that one and no other. For up to `wait` seconds failures are tried again. Raises
    NoControlPlane if nobody proved genuine, and whatever reading the CA or writing the hosts file raises; the hosts
    file is untouched then.
    """
    if node.config.role == "control-plane" and address is None:
        return _write_own(node)
    order = node.candidates()
    if address is not None:
        order = (Endpoint.parse(address, node.config.port),)
    elif not order:
        require_control_plane(node.config)
    start = node.clock.monotonic()
    deadline = start + wait
    attempt, failures = 0, "no answer in time"
    while True:
        race = Race(order, node.config.hedge_delay, node.config.probe_timeout)
        node.report.status(
            f"trying {', '.join(map(str, order))}",
            node.clock.monotonic() - start,
            deadline - node.clock.monotonic(),
        )
        prober = node.make_prober(node.config)
        until = max(deadline, node.clock.monotonic() + LAST_TRY) if attempt else None
        winner = find_live(prober.probe, race, node.clock, until=until)
        if winner is not None:
            return _write_pin(node, winner, race)
        failures = _failures(race) or failures  # the last race may have been cut before any answer
        remaining = deadline - node.clock.monotonic()
        if remaining <= 0:
            raise NoControlPlane(f"no live control plane: {failures}")
        pause = min(backoff(attempt, node.rng), remaining)
        node.report.info(
            f"no live control plane yet ({failures}); next try in {pause:.1f} s", attempt=attempt + 1
        )
        node.report.status("no live control plane yet", node.clock.monotonic() - start, remaining)
        node.clock.sleep(pause)
        attempt += 1


def _failures(race: Race) -> str:
    """Why each candidate was no good, in one line."""
    return "; ".join(f"{r.endpoint} {r.health.value}: {r.detail}" for r in race.results.values())


def _write_own(node: Node) -> tuple[str, ...]:
    """A control-plane node's block: its own API server first. Nothing is probed: kubelet has yet to start it."""
    addresses = addresses_for_block(LOOPBACK, node.candidates(), fallbacks=node.config.fallbacks)
    _write(node, addresses, f"{node.config.host} points at this node's own API server, {LOOPBACK}")
    return addresses


def _write_pin(node: Node, winner: ProbeResult, race: Race) -> tuple[str, ...]:
    failed = [endpoint for endpoint, result in race.results.items() if not result.health.genuine]
    for endpoint in failed:
        node.report.info(f"passed over {endpoint}: {race.results[endpoint].detail}", endpoint=str(endpoint))
    if winner.health is Health.NOT_READY:
        node.report.warning(
            f"no control plane is ready; taking {winner.endpoint}, which is alive ({winner.detail})"
        )
    order = race.order if len(race.order) > 1 else (*race.order, *node.candidates())
    addresses = addresses_for_block(
        winner.endpoint.address, order, fallbacks=node.config.fallbacks, failed=failed
    )
    if winner.endpoint.port != node.config.port:
        node.report.warning(
            f"{winner.endpoint} answers on port {winner.endpoint.port}, but a hosts file carries no port: clients dial "
            f"{node.config.port} (port) there"
        )
    took = f"{winner.latency * 1000:.0f} ms"
    _write(
        node,
        addresses,
        f"pinned {node.config.host} to {winner.endpoint} ({winner.health.value}, answered in {took})",
    )
    return addresses


def _write(node: Node, addresses: tuple[str, ...], message: str) -> bool:
    change = node.hosts.pin(node.config.host, addresses, node.config.on_conflict)
    report_change(node.report, node.hosts.path, change)
    fallbacks = f"; fallbacks {', '.join(addresses[1:])}" if addresses[1:] else ""
    unchanged = "" if change.written else " (already so, nothing written)"
    node.report.info(f"{message}{fallbacks}{unchanged}", addresses=list(addresses), written=change.written)
    return change.written


def report_change(report: Reporter, path: Path, change: Change) -> None:
    """Log what a write did besides its purpose: lines commented out, lines lost, an earlier write mended."""
    if change.recovered:
        report.warning(change.recovered)
    for line in change.adopted:
        report.warning(
            f"{path}:{line.number}: commented out until `apiha unpin`: {line.text}", line=line.number
        )
    for lost in change.dropped:
        report.warning(
            f"{path}:{lost.number}: dropped from the block, it was not apiha's: {lost.text}", line=lost.number
        )


def _block_addresses(node: Node) -> tuple[str, ...]:
    return current(node.hosts.read(), node.config.host).addresses


def swap(node: Node) -> tuple[str, ...]:
    """Point the name at the VIP, the control planes after it; returns the addresses of the block."""
    vip = require_vip(node.config)
    addresses = node.vip_first(vip, _block_addresses(node))
    _write(node, addresses, f"swapped {node.config.host} to the VIP {vip}")
    return addresses


class _Seldom:
    """Keeps a wait that may last for hours from filling the log: the same words about a topic once a minute at most."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[str, tuple[str, float]] = {}

    def worth_saying(self, topic: str, words: str) -> bool:
        """Whether the words are news, or were last said long enough ago; they count as said then."""
        now = self._clock.monotonic()
        told, at = self._told.get(topic, ("", now))
        if words == told and now < at + STILL_WAITING_INTERVAL:
            return False
        self._told[topic] = (words, now)
        return True


def wait_vip(node: Node, *, timeout: float | None = None) -> tuple[str, ...]:
    """Wait until the VIP proves itself, then swap; meanwhile replace the pinned control plane when it dies.

    `timeout` in seconds, None for no limit. Returns the addresses of the block. Raises VipTimeout.
    """
    if node.config.role == "control-plane":
        node.report.info("role is control-plane: the name stays at 127.0.0.1, there is nothing to wait for")
        return _block_addresses(node)
    vip = require_vip(node.config)
    start = node.clock.monotonic()
    deadline = None if timeout is None else start + timeout
    seldom, proof, silent, check_at = _Seldom(node.clock), VipProof(), 0, start
    while True:
        began = node.clock.monotonic()
        pinned = next(iter(_block_addresses(node)), None)
        check = began >= check_at and pinned != vip.address
        prober = node.make_prober(node.config)
        endpoints = [vip] + ([_endpoint_of(node, pinned)] if check and pinned is not None else [])
        node.report.status(
            f"waiting for the VIP {vip}, {f'pinned to {pinned}' if pinned else 'not pinned'}",
            began - start,
            None if deadline is None else deadline - began,
        )
        answers = probe_all(prober.probe, endpoints)
        proof, silent = proof.after(answers[0]), 0 if answers[0].health.usable else silent + 1
        if proof.complete:
            addresses = swap(node)
            learn(node, vip)
            return addresses
        saying = f"{answers[0].health.value}: {answers[0].detail}"
        if silent and seldom.worth_saying("vip", saying):
            node.report.info(f"the VIP {vip} does not answer yet ({saying})", elapsed=round(began - start, 1))
        if check:
            check_at = began + min(RECHECK_INTERVAL_MAX, RECHECK_INTERVAL * (1 + silent // 10))
        if (check and not (answers[1:] and answers[1].health.usable)) or (pinned == vip.address and silent):
            lost = answers[1] if answers[1:] else None
            _replace_pinned(node, prober, lost, seldom, until=deadline)
        if deadline is not None and node.clock.monotonic() >= deadline:
            raise VipTimeout(
                f"the VIP {vip} did not prove itself within {format_duration(deadline - start)} ({saying}); "
                "the name stays pinned; does kube-proxy run on this node, and does the Service `apiserver` exist?"
            )
        interval = (
            PROOF_INTERVAL if proof.streak else min(VIP_INTERVAL_MAX, VIP_INTERVAL * (1 + silent // 30))
        )
        wake = began + interval * node.rng.uniform(0.9, 1.1)
        node.clock.sleep((wake if deadline is None else min(wake, deadline)) - node.clock.monotonic())


def _endpoint_of(node: Node, address: str) -> Endpoint:
    """The known endpoint with this address (its port may be its own), else the address with the configured port."""
    return next((e for e in node.candidates() if e.address == address), Endpoint(address, node.config.port))


def _replace_pinned(
    node: Node, prober: Prober, lost: ProbeResult | None, seldom: _Seldom, *, until: float | None
) -> None:
    """Pin another control plane if one is better than the one that stopped being usable; else leave things alone."""
    if lost is not None and seldom.worth_saying("pinned", f"{lost.endpoint} {lost.detail}"):
        node.report.warning(f"the pinned control plane {lost.endpoint} is {lost.health.value}: {lost.detail}")
    order = node.candidates()
    race = Race(order, node.config.hedge_delay, node.config.probe_timeout)
    winner = find_live(prober.probe, race, node.clock, until=until)
    if winner is None:
        if seldom.worth_saying("others", "none"):
            node.report.warning("no other control plane answers either; the block stays as it is")
    elif lost is None or winner.endpoint != lost.endpoint:
        _write_pin(node, winner, race)


def bootstrap(node: Node, *, pin_only: bool = False, timeout: float | None = None) -> tuple[str, ...]:
    """Pin, then wait for the VIP and swap, all within `timeout` seconds; for manual runs and cloud-init."""
    if not pin_only and node.config.role == "worker":
        require_vip(node.config)  # say so before anything is written
    start = node.clock.monotonic()
    addresses = pin(node, wait=timeout or 0.0)
    if pin_only or node.config.role == "control-plane":
        return addresses
    left = None if timeout is None else max(0.0, timeout - (node.clock.monotonic() - start))
    return wait_vip(node, timeout=left)


def vip_answers(
    probe: Callable[[], ProbeResult], *, swapped: bool, pause: Callable[[float], None]
) -> ProbeResult:
    """Whether to rely on the VIP, by up to three probes; the last one's result stands for the verdict.

    A node that is already swapped gives it up only if all three fail, one that is pinned swaps only if all three
    succeed: with one dead control plane behind the VIP every third connection fails, and the block must not flap.
    """
    result = probe()
    for _ in range(VipProof().needed - 1):
        if result.health.usable is swapped:
            break
        pause(PROOF_INTERVAL)
        result = probe()
    return result


def reconcile(node: Node) -> tuple[str, ...]:
    """One pass that puts the block right if it is not; returns its addresses. Idempotent.

    The VIP answers: VIP first. It does not: a live control plane first. Nothing answers: raises
    NoControlPlane, and the block is untouched.
    """
    if node.config.role == "control-plane":
        addresses = _write_own(node)
        learn(node, Endpoint(LOOPBACK, node.config.port))
        return addresses
    vip = node.config.vip_endpoint
    if vip is None and not node.candidates():
        require_control_plane(node.config)
    prober = node.make_prober(node.config)
    block = _block_addresses(node)
    if vip is not None:
        swapped = block[:1] == (vip.address,)
        verdict = vip_answers(lambda: prober.probe(vip), swapped=swapped, pause=node.clock.sleep)
        if verdict.health.usable:
            addresses = node.vip_first(vip, block)
            _write(node, addresses, f"the VIP {vip} answers; {node.config.host} points at it")
            learn(node, vip)
            return addresses
        node.report.info(f"the VIP {vip} does not answer ({verdict.health.value}: {verdict.detail})")
    return _keep_or_pin(node, prober, block)


def _keep_or_pin(node: Node, prober: Prober, block: tuple[str, ...]) -> tuple[str, ...]:
    """Without a VIP: keep the control plane that comes first in the block if it is usable, else race for another."""
    order = node.candidates()
    if not order:
        require_control_plane(node.config)
    first = next((e for e in order if block[:1] == (e.address,)), None)
    if first is not None and (result := prober.probe(first)).health.usable:
        addresses = addresses_for_block(first.address, order, fallbacks=node.config.fallbacks)
        addresses = _settled(block, addresses)
        _write(node, addresses, f"{node.config.host} points at {first} ({result.health.value})")
        learn(node, first)
        return addresses
    race = Race(order, node.config.hedge_delay, node.config.probe_timeout)
    winner = find_live(prober.probe, race, node.clock)
    if winner is None:
        raise NoControlPlane(f"nothing answers, the block stays as it is: {_failures(race)}")
    addresses = _write_pin(node, winner, race)
    learn(node, winner.endpoint)
    return addresses


def _settled(block: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The block as it is, if it differs from the wanted one only in the order of the fallbacks: no write for that."""
    same = block[:1] == wanted[:1] and sorted(block) == sorted(wanted)
    return block if same else wanted


def learn(node: Node, endpoint: Endpoint) -> None:
    """Keep the control planes that the cluster names now, for the next start; trouble is no more than logged."""
    try:
        with node.make_node_prober(node.config) as identified:
            found = fetch_control_planes(identified, endpoint)
        if save_learned(node.state_dir, found):
            node.report.info(f"learned the control planes: {_words(found)}")
    except (ConfigError, NotLearned) as error:
        node.report.debug(f"control planes not learned: {error}")
    except OSError as error:
        node.report.debug(f"control planes not kept in {node.state_dir}: {error.strerror}")


def _words(endpoints: Iterable[Endpoint]) -> str:
    return ", ".join(map(str, endpoints))
