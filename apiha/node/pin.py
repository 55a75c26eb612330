"""Pin: point the name at a live control plane, before kubelet starts. Unpin: take the block away again."""

from __future__ import annotations

from apiha.clock import backoff
from apiha.config import require_control_plane
from apiha.endpoint import Endpoint
from apiha.errors import NoControlPlane
from apiha.hosts import HostsFile
from apiha.log import Reporter
from apiha.node.choice import Race, addresses_for_block
from apiha.node.context import LOOPBACK, Node
from apiha.node.trial import find_live
from apiha.probe import Health, ProbeResult

LAST_TRY = 1.0  # seconds that a try gets which starts when the time is nearly up


def pin(node: Node, *, address: str | None = None, wait: float = 0.0) -> tuple[str, ...]:
    """Point the name at a live control plane, the others after it; returns the addresses of the block.

    `address` asks for that one and no other. For up to `wait` seconds failures are tried again. Raises
    NoControlPlane if nobody proved genuine, and whatever reading the CA or writing the hosts file raises; the hosts
    file is untouched then.
    """
    if node.config.role == "control-plane" and address is None:
        return write_own(node)
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
            return write_pin(node, winner, race)
        failures = failures_of(race) or failures  # the last race may have been cut before any answer
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


def failures_of(race: Race) -> str:
    """Why each candidate was no good, in one line."""
    return "; ".join(f"{r.endpoint} {r.health.value}: {r.detail}" for r in race.results.values())


def write_own(node: Node) -> tuple[str, ...]:
    """A control-plane node's block: its own API server first. Nothing is probed: kubelet has yet to start it."""
    addresses = addresses_for_block(LOOPBACK, node.candidates(), fallbacks=node.config.fallbacks)
    write_block(node, addresses, f"{node.config.host} points at this node's own API server, {LOOPBACK}")
    return addresses


def write_pin(node: Node, winner: ProbeResult, race: Race) -> tuple[str, ...]:
    """Write the block that the race decided, its winner first; returns the addresses. Raises as `write_block` does."""
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
    write_block(
        node,
        addresses,
        f"pinned {node.config.host} to {winner.endpoint} ({winner.health.value}, answered in {took})",
    )
    return addresses


def write_block(node: Node, addresses: tuple[str, ...], message: str) -> bool:
    """Write the block and say so; whether anything was written. Raises HostsConflict, HostsFileError, NotPermitted."""
    change = node.hosts.pin(node.config.host, addresses, node.config.on_conflict)
    change.report(node.report, node.hosts.path)
    fallbacks = f"; fallbacks {', '.join(addresses[1:])}" if addresses[1:] else ""
    unchanged = "" if change.written else " (already so, nothing written)"
    node.report.info(f"{message}{fallbacks}{unchanged}", addresses=list(addresses), written=change.written)
    return change.written


def unpin(hosts: HostsFile, host: str | None, report: Reporter) -> None:
    """Take the block out of the hosts file and restore adopted lines; `host` is None if it is not known.

    Raises HostsFileError, NotPermitted.
    """
    change = hosts.unpin(host)
    change.report(report, hosts.path)
    report.info(f"{'removed the block from' if change.written else 'there was no block in'} {hosts.path}")
