"""Reconcile: one pass that puts the block right, and what a pass learns from the API server that it found."""

from __future__ import annotations

from collections.abc import Iterable

from apiha.config import require_control_plane
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError, NoControlPlane
from apiha.node.choice import Race, addresses_for_block
from apiha.node.context import LOOPBACK, Node
from apiha.node.learned import NotLearned, fetch_control_planes, save_learned
from apiha.node.pin import failures_of, write_block, write_own, write_pin
from apiha.node.trial import ask_vip, find_live
from apiha.probe import Prober


def reconcile(node: Node) -> tuple[str, ...]:
    """One pass that puts the block right if it is not; returns its addresses. Idempotent.

    The VIP answers: VIP first. It does not: a live control plane first. Nothing answers: raises
    NoControlPlane, and the block is untouched.
    """
    if node.config.role == "control-plane":
        addresses = write_own(node)
        learn(node, Endpoint(LOOPBACK, node.config.port))
        return addresses
    vip = node.config.vip_endpoint
    if vip is None and not node.candidates():
        require_control_plane(node.config)
    prober = node.make_prober(node.config)
    block = node.block()
    if vip is not None:
        swapped = block[:1] == (vip.address,)
        verdict = ask_vip(lambda: prober.probe(vip), swapped=swapped, pause=node.clock.sleep)
        if verdict.health.usable:
            addresses = node.vip_first(vip, block)
            write_block(node, addresses, f"the VIP {vip} answers; {node.config.host} points at it")
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
        write_block(node, addresses, f"{node.config.host} points at {first} ({result.health.value})")
        learn(node, first)
        return addresses
    race = Race(order, node.config.hedge_delay, node.config.probe_timeout)
    winner = find_live(prober.probe, race, node.clock)
    if winner is None:
        raise NoControlPlane(f"nothing answers, the block stays as it is: {failures_of(race)}")
    addresses = write_pin(node, winner, race)
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
