"""Writing the block: what a phase decided gets into the hosts file, if it may, and into the log."""

from __future__ import annotations

from collections.abc import Mapping

from apiha.endpoint import Endpoint
from apiha.hosts.adopt import Foreign
from apiha.node.choice import block_addresses, put_last
from apiha.node.context import LOOPBACK, Node
from apiha.probe import Health, ProbeResult

Block = tuple[str, ...]


def write_block(
    node: Node,
    addresses: Block,
    message: str,
    *,
    expected: Block | None,
    on_conflict: Foreign | None = None,
) -> None:
    """Write the block and say so.

    `expected` is the block that the addresses were decided from: if it is another one by now, BlockChanged is raised
    and nothing is written. None stands for a decision that holds whatever the block says. `on_conflict` takes the place
    of the configured one. Raises HostsConflict, HostsFileError, NotPermitted.
    """
    foreign = on_conflict or node.config.on_conflict
    change = node.hosts.pin(node.config.host, addresses, foreign, expected=expected)
    change.report(node.report, node.hosts.path)
    fallbacks = f"; fallbacks {', '.join(addresses[1:])}" if addresses[1:] else ""
    unchanged = "" if change.written else " (already so, nothing written)"
    node.report.info(f"{message}{fallbacks}{unchanged}", addresses=list(addresses), written=change.written)


def write_own(node: Node) -> Block:
    """A control-plane node's block: its own API server first. Nothing is probed: kubelet has yet to start it."""
    addresses = block_addresses(LOOPBACK, node.known(), fallbacks=node.config.fallbacks)
    message = f"{node.config.host} points at this node's own API server, {LOOPBACK}"
    write_block(node, addresses, message, expected=None)
    return addresses


def write_pin(
    node: Node,
    winner: ProbeResult,
    results: Mapping[Endpoint, ProbeResult],
    *,
    expected: Block | None,
    on_conflict: Foreign | None = None,
) -> Block:
    """Write the block that a race decided: its winner first; returns the addresses. The rest as for `write_block`."""
    for endpoint, result in results.items():
        if not result.health.genuine:
            node.report.info(f"passed over {endpoint}: {result.detail}", endpoint=str(endpoint))
    if winner.health is Health.NOT_READY:
        node.report.warning(
            f"no control plane is ready; taking {winner.endpoint}, which is alive ({winner.detail})"
        )
    if winner.endpoint.port != node.config.port:
        node.report.warning(
            f"{winner.endpoint} answers on port {winner.endpoint.port}, but a hosts file carries no port: clients dial "
            f"{node.config.port} (port) there"
        )
    addresses = pinned_block(node, winner.endpoint, results)
    took = f"{winner.latency * 1000:.0f} ms"
    message = f"pinned {node.config.host} to {winner.endpoint} ({winner.health.value}, answered in {took})"
    write_block(node, addresses, message, expected=expected, on_conflict=on_conflict)
    return addresses


def pinned_block(node: Node, first: Endpoint, results: Mapping[Endpoint, ProbeResult]) -> Block:
    """The addresses of a block that names this control plane first; `results` is what is known of the others."""
    config = node.config
    return block_addresses(
        first.address, node.known(), fallbacks=config.fallbacks, results=results, vip=config.vip
    )


def swapped_block(node: Node, vip: Endpoint, block: Block, results: Mapping[Endpoint, ProbeResult]) -> Block:
    """The addresses of a block that names the VIP first. The others keep the order of `block`, the present one; after
    them come those that are new, then the drained ones; and at the end those that do not answer, by `results`.
    """
    place = {address: index for index, address in enumerate(block)}
    placed = sorted(node.known(), key=lambda endpoint: place.get(endpoint.address, len(place)))
    order = put_last(placed, node.remembered().drained)
    return block_addresses(vip.address, order, fallbacks=node.config.fallbacks, results=results)
