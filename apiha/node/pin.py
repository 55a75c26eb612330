"""Pin: point the name at a live control plane, before kubelet starts. Unpin: take the block away again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from apiha.clock import backoff
from apiha.config import require_control_plane
from apiha.endpoint import Endpoint
from apiha.errors import HostsConflict, NoControlPlane
from apiha.hosts import HostsFile
from apiha.log import Reporter
from apiha.node.block import Block, write_own, write_pin
from apiha.node.choice import Race
from apiha.node.context import Node
from apiha.node.trial import find_live, survey
from apiha.probe import ProbeResult

LAST_TRY = 1.0  # seconds that a try gets which starts when the time is nearly up
LAST_LOOK = 0.5  # seconds that a look at the clocks of control planes gets when the time is up
CLOCK_OFF = timedelta(
    hours=1
)  # certificates begin and end at any time of a day: no smaller error explains much


def pin(node: Node, *, address: str | None = None, wait: float = 0.0) -> Block:
    """Point the name at a live control plane, the others after it; returns the addresses of the block.

    `address` asks for that one and no other. For up to `wait` seconds failures are tried again, and no try outlasts
    that by more than `LAST_TRY` (and `LAST_LOOK` where the clocks differ); without `wait` there is one try, which takes
    what it takes. Raises NoControlPlane if nobody proved genuine, and whatever reading the CA or writing the hosts file
    raises.
    """
    if node.config.role == "control-plane" and address is None:
        return write_own(node)
    if address is not None:
        order: tuple[Endpoint, ...] = (Endpoint.parse(address, node.config.port),)
    else:
        order = node.candidates(node.block())
        if not order:
            require_control_plane(node.config)
    start = node.clock.monotonic()
    wait = wait if node.preview is None else 0.0  # one try says what would be written
    deadline = start + wait
    attempt, failures = 0, "no answer in time"
    while True:
        race = Race(order, node.config.hedge_delay, node.config.probe_timeout)
        prober = node.prober()  # takes its time on a cold disk
        now = node.clock.monotonic()
        node.report.status(f"trying {', '.join(map(str, order))}", now - start, deadline - now)
        until = max(deadline, now + LAST_TRY) if wait else None
        winner = find_live(prober.probe, race, node.clock, until=until)
        winner = winner or _despite_the_clock(node, race.results, until)
        if winner is not None:
            return _write(node, winner, race.results)
        failures = failures_of(race.results) or failures  # the last race may have been cut before any answer
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


def failures_of(results: Mapping[Endpoint, ProbeResult]) -> str:
    """Why each candidate was no good, in one line."""
    return "; ".join(f"{r.endpoint} {r.health.value}: {r.detail}" for r in results.values())


def _write(node: Node, winner: ProbeResult, results: Mapping[Endpoint, ProbeResult]) -> Block:
    """Write the pin; with a foreign line that is to be refused, at least let the block not lead to a dead VIP."""
    try:
        return write_pin(node, winner, results, expected=None)
    except HostsConflict:
        if node.config.vip is not None and node.block()[:1] == (node.config.vip,):
            # The foreign line stands as it stood. A block is there already, so no line is added to the conflict.
            write_pin(node, winner, results, expected=None, on_conflict="leave")
        raise


def _despite_the_clock(
    node: Node, results: Mapping[Endpoint, ProbeResult], until: float | None
) -> ProbeResult | None:
    """A control plane whose certificate is only not valid by this machine's clock, if that clock is wrong; else None.

    Looks until `until` (monotonic seconds), at least for `LAST_LOOK`; None: for `probe_timeout`.

    A machine may boot with a clock that is years off, and be put right by a time server later; kubelet needs its
    control plane then. The clock counts as wrong if the control plane's differs by more than `CLOCK_OFF`, and the
    certificate is valid by that one. Whoever holds an expired certificate of the cluster could pretend that: it gains
    a place in the block, where kubelet, which goes by the certificate, takes it for dead.
    """
    suspects = [endpoint for endpoint, result in results.items() if result.clock_problem]
    if not suspects:
        return None
    left = None if until is None else max(LAST_LOOK, until - node.clock.monotonic())
    prober = node.prober(timeless=True, at_most=left)
    now = node.clock.now()
    for result in survey(prober.probe, suspects).values():
        theirs, expires = result.server_time, result.certificate_expires
        if not result.health.usable or theirs is None or expires is None:
            continue
        if abs(theirs - now) > CLOCK_OFF and theirs < expires:
            node.report.warning(
                f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, that of {result.endpoint} says "
                f"{theirs:%Y-%m-%d %H:%M}: taking its certificate for valid; clients will not, until the clock is right"
            )
            return result
    return None


def unpin(hosts: HostsFile, host: str | None, report: Reporter) -> None:
    """Take the block out of the hosts file and restore adopted lines; `host` is None if it is not known.

    Raises HostsFileError, NotPermitted.
    """
    change = hosts.unpin(host)
    change.report(report, hosts.path)
    report.info(f"{'removed the block from' if change.written else 'there was no block in'} {hosts.path}")
