"""Reconcile: one pass that puts the block right."""

from __future__ import annotations

from dataclasses import replace

from apiha.config import require_control_plane
from apiha.endpoint import Endpoint
from apiha.errors import NoControlPlane
from apiha.hosts import BlockChanged
from apiha.node.block import Block, pinned_block, swapped_block, write_block, write_own, write_pin
from apiha.node.choice import Race, settled, worth_moving
from apiha.node.context import LOOPBACK, Node
from apiha.node.learn import OtherCluster, learn
from apiha.node.pin import failures_of
from apiha.node.trial import ask_vip, find_live, survey
from apiha.probe import Health, Prober, ProbeResult

SETTLE = 1.0  # seconds; an editor writes a file several times, and the last state counts
ATTEMPTS = 5  # how often a pass decides anew because another run changed the block meanwhile


def settle(node: Node) -> None:
    """Wait before a pass that a write of the file started: a second, and longer while another program keeps writing."""
    node.clock.sleep(max(SETTLE, node.hosts.rivalry().pause))


def reconcile(node: Node) -> Block:
    """One pass that puts the block right if it is not; returns its addresses. Idempotent.

    The VIP answers: VIP first. It does not: a live control plane first. Nothing answers: raises NoControlPlane, and the
    block is untouched. Raises BlockChanged if other runs changed the block during each of `ATTEMPTS` decisions.
    """
    if node.config.role == "control-plane":
        _at_home(node, Endpoint(LOOPBACK, node.config.port))
        return write_own(node)
    for _ in range(ATTEMPTS - 1):
        try:
            return _decide(node, node.block())
        except BlockChanged:
            node.report.info("another run changed the block meanwhile: deciding anew")
    return _decide(node, node.block())


def _decide(node: Node, block: Block) -> Block:
    """Decide by what answers, given this block, and write it; raises BlockChanged if it is another one by then."""
    vip = node.config.vip_endpoint
    if vip is None and not node.candidates(block):
        require_control_plane(node.config)
    prober = node.prober()
    verdict = None if vip is None else _verdict(node, prober, vip, block)
    if vip is not None and verdict is not None and verdict.health.usable:
        wanted = swapped_block(node, vip, block, survey(prober.probe, node.known()))
        addresses = settled(block, wanted, node.remembered().drained)
        message = f"the VIP {vip} answers; {node.config.host} points at it"
        write_block(node, addresses, message, expected=block)
        return addresses
    return _without_vip(node, prober, block, verdict)


def _verdict(node: Node, prober: Prober, vip: Endpoint, block: Block) -> ProbeResult:
    """Whether to rely on the VIP: whether it answers, and leads to this node's cluster as far as that can be told."""
    swapped = block[:1] == (vip.address,)
    verdict = ask_vip(lambda: prober.probe(vip), swapped=swapped, pause=node.clock.sleep)
    if verdict.health.usable:
        if _at_home(node, vip):
            return verdict
        verdict = replace(verdict, health=Health.UNTRUSTED, detail="it leads to another cluster")
    node.report.info(f"the VIP {vip} does not answer ({verdict.health.value}: {verdict.detail})")
    return verdict


def _without_vip(node: Node, prober: Prober, block: Block, vip: ProbeResult | None) -> Block:
    """Keep what comes first in the block as long as nothing is better, else pin; `vip` is the verdict on the VIP."""
    order = node.candidates(block)
    if not order:
        require_control_plane(node.config)
    first = _first(node, prober, block, vip)
    strangers: set[Endpoint] = set()
    if first is not None and first.health.usable:
        if _at_home(node, first.endpoint):
            wanted = pinned_block(node, first.endpoint, survey(prober.probe, node.known()))
            addresses = settled(block, wanted, node.remembered().drained)
            message = f"{node.config.host} points at {first.endpoint} ({first.health.value})"
            write_block(node, addresses, message, expected=block)
            return addresses
        strangers.add(first.endpoint)
        first = None
    while True:
        race = Race(
            tuple(e for e in order if e not in strangers), node.config.hedge_delay, node.config.probe_timeout
        )
        winner = find_live(prober.probe, race, node.clock)
        if winner is None:
            failures = failures_of(race.results) or "every one that answers belongs to another cluster"
            raise NoControlPlane(f"nothing answers, the block stays as it is: {failures}")
        if first is not None and not worth_moving(first.health, winner.health):
            node.report.warning(
                f"nothing is ready: the block stays with {first.endpoint} ({first.health.value}: {first.detail})"
            )
            return block
        if not winner.health.usable or _at_home(node, winner.endpoint):
            return write_pin(node, winner, race.results, expected=block)
        strangers.add(winner.endpoint)


def _first(node: Node, prober: Prober, block: Block, vip: ProbeResult | None) -> ProbeResult | None:
    """What the address that comes first in the block answers; None if there is none that this node should keep."""
    if vip is not None and block[:1] == (vip.endpoint.address,):
        return vip
    known = (endpoint for endpoint in node.known() if block[:1] == (endpoint.address,))
    first = next(known, None)
    return None if first is None else prober.probe(first)


def _at_home(node: Node, endpoint: Endpoint) -> bool:
    """Learn from this API server; whether it belongs to this node's cluster, as far as that can be told."""
    try:
        learn(node, endpoint)
    except OtherCluster as error:
        node.report.warning(str(error))
        return False
    return True
