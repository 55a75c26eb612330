"""Drain and undrain: write what is wanted into the Service, then wait until the cluster has followed.

Reads and writes the cluster through `cluster.Cluster`; every decision is in `planes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from apiha.admin.cluster import Changed, Cluster
from apiha.admin.planes import KubeProxy, Plane, Planes, laggards, refusal
from apiha.clock import Clock
from apiha.drained import Drain, Drained, of_service
from apiha.durations import format_duration
from apiha.errors import ApihaError, ExitCode, NoControlPlane, NotPermitted
from apiha.log import Reporter

_ATTEMPTS = 10  # writes that lost a race, each against somebody else's that succeeded
_POLL = 0.5  # s between two looks


class Refused(ApihaError):
    """The cluster's state does not allow what was asked, or does not any more."""

    exit_code = ExitCode.REFUSED


class NotFollowed(ApihaError):
    """What was written stands, and the cluster did not follow in time."""

    exit_code = ExitCode.NOT_FOLLOWED


@dataclass(frozen=True)
class Outcome:
    """What came of a drain. `waited` is how many seconds the nodes had to follow."""

    plane: Plane
    others: tuple[Plane, ...]
    proxies: tuple[KubeProxy, ...]
    waited: float


def drain(
    cluster: Cluster, address: str, report: Reporter, clock: Clock, *, timeout: float, settle: float
) -> Outcome:
    """Drain a control plane, and wait until no new connection goes to it any more.

    First, for up to `timeout` seconds, until the updater has made it unready in the Service; then kube-proxy's
    minSyncPeriod plus `settle` seconds, so that every node's kube-proxy has written its rules. Raises Refused for the
    last ready control plane and for a stranger, NotFollowed, and what `Cluster` raises. Nothing is written where this
    kubeconfig may not read what it takes to wait.
    """

    def wanted(drained: Drained, planes: Planes) -> Drained:
        if (why := refusal(planes, address)) is not None:
            raise Refused(f"not drained: {why}")
        return drained.having(Drain(address, clock.now().replace(microsecond=0)))

    period, proxies = cluster.min_sync_period(), cluster.kube_proxies()
    if _write(cluster, wanted, report):
        report.info(f"{address} is marked as drained in the Service {cluster.namespace}/apiserver")
    else:
        report.info(f"{address} was marked as drained already")
    try:
        _await_unready(cluster, address, report, clock, timeout)
        whom = (
            f"kube-proxy on {len(proxies)} node{'' if len(proxies) == 1 else 's'}"
            if proxies
            else "kube-proxy (none of its Pods can be seen from here)"
        )
        report.info(
            f"the Service sends no new connections to {address}; waiting {format_duration(period + settle)} for "
            f"{whom}: it collects changes for up to {format_duration(period)} (minSyncPeriod), and gets "
            f"{format_duration(settle)} (--settle) to write its rules"
        )
        clock.sleep(period + settle)
        # The others, and kube-proxies, may have died meanwhile.
        planes = _await_unready(cluster, address, report, clock, timeout)
        proxies = cluster.kube_proxies()
    except (KeyboardInterrupt, NoControlPlane, NotPermitted):
        report.warning(
            f"do not stop {address} yet: it stays marked as drained, and nobody waited until the nodes followed. Wait "
            f"again: apiha control-plane drain {address}; take it back: apiha control-plane undrain {address}"
        )
        raise
    plane = planes.of(address)
    if plane is None:
        raise Refused(f"{address} was undrained by somebody else meanwhile")
    if plane.present:
        [plane] = cluster.with_connections([plane])
    return Outcome(plane, planes.others_ready(address), proxies, period + settle)


def undrain(cluster: Cluster, address: str, report: Reporter, clock: Clock, *, timeout: float) -> Plane:
    """Take a control plane back, and wait for up to `timeout` seconds until it is ready.

    One that is not there is waited for as well: its machine may still boot, and who goes on to the next control plane
    would have two down. Raises Refused for an address that is neither drained nor a control plane, NotFollowed, and
    what `Cluster` raises.
    """

    def wanted(drained: Drained, planes: Planes) -> Drained:
        if planes.of(address) is None:
            others = ", ".join(sorted(drained.addresses)) or "none"
            raise Refused(
                f"nothing to undrain: {address} is not a control plane of this cluster (drained: {others})"
            )
        return drained.without(address)

    if _write(cluster, wanted, report):
        report.info(f"{address} is no longer marked as drained in the Service {cluster.namespace}/apiserver")
    else:
        report.info(f"{address} was not marked as drained")
    start = clock.monotonic()
    while True:
        plane = _look(cluster, clock, start + timeout).of(address)
        if plane is not None and plane.present and plane.ready:
            return plane
        elapsed = clock.monotonic() - start
        if elapsed >= timeout:
            raise NotFollowed(_why_not_back(plane, address, cluster.namespace, timeout))
        report.status(f"waiting until {address} is ready in the Service", elapsed, timeout - elapsed)
        clock.sleep(_POLL)


def _why_not_back(plane: Plane | None, address: str, namespace: str, timeout: float) -> str:
    if plane is None or not plane.present:
        return (
            f"{address} is not there after {format_duration(timeout)}: no API server at that address is in the Service "
            "kubernetes. It is no longer marked as drained, and gets new connections once it is ready; if the machine "
            "is gone for good, you are done"
        )
    return (
        f"{address} is not ready after {format_duration(timeout)}: is its API server ready, and does the "
        f"updater run (`kubectl -n {namespace} get pods,leases`)?"
    )


def _write(cluster: Cluster, wanted: Callable[[Drained, Planes], Drained], report: Reporter) -> bool:
    """Write what is `wanted` of what the Service says now; whether anything had to be written.

    Everything is read anew for each attempt, the Service first: what was decided from one state of it is never
    written over another. What cannot be read of the annotation goes, and is named.
    """
    for _ in range(_ATTEMPTS):
        service = cluster.service()
        before = of_service(service)
        after = wanted(before, cluster.planes(service))
        if after.drains == before.drains and not before.problems:
            return False
        try:
            cluster.write_drained(service, after)
        except Changed:
            continue
        except KeyboardInterrupt:
            report.warning("the Service may have been changed all the same: `apiha control-plane list` says")
            raise
        if before.problems:
            report.warning(f"removed from the annotation: {'; '.join(before.problems)}")
        return True
    raise ApihaError(f"the Service was changed by somebody else {_ATTEMPTS} times in a row; try again")


def _await_unready(cluster: Cluster, address: str, report: Reporter, clock: Clock, timeout: float) -> Planes:
    """Wait until the Service sends no new connections there; raises Refused if somebody undrained it, NotFollowed."""
    start = clock.monotonic()
    while True:
        planes = _look(cluster, clock, start + timeout)
        plane = planes.of(address)
        if plane is None or plane.drain is None:
            raise Refused(f"{address} was undrained by somebody else meanwhile")
        if not plane.ready:
            return planes
        elapsed = clock.monotonic() - start
        if elapsed >= timeout:
            raise NotFollowed(_why_not(planes, address, cluster.namespace, timeout))
        report.status(f"waiting until {address} is unready in the Service", elapsed, timeout - elapsed)
        clock.sleep(_POLL)


def _why_not(planes: Planes, address: str, namespace: str, timeout: float) -> str:
    if not planes.others_ready(address):
        return (
            f"do not stop {address}: it is the last ready control plane now, so the updater goes on using it. It stays "
            f"marked as drained; look at the others, or take it back: apiha control-plane undrain {address}"
        )
    return (
        f"do not stop {address}: the Service still sends connections to it after {format_duration(timeout)}. Does the "
        f"updater run, in a version that knows drains (`kubectl -n {namespace} get pods,leases`)? It stays marked as "
        f"drained; take it back: apiha control-plane undrain {address}"
    )


def _look(cluster: Cluster, clock: Clock, deadline: float) -> Planes:
    """The control planes now; an API server that does not answer is asked again until `deadline`."""
    while True:
        try:
            return cluster.planes(cluster.service())
        except NoControlPlane:
            if clock.monotonic() >= deadline:
                raise
            clock.sleep(_POLL)


def safe(outcome: Outcome) -> list[str]:
    """What a drain came to, for people: that it is safe, what to mind, what is still connected, the way back."""
    address = outcome.plane.endpoint.address
    others = ", ".join(plane.endpoint.address for plane in outcome.others)
    lines = [f"{address} is drained, and safe to stop: new connections go to {others}"]
    if behind := laggards(outcome.proxies):
        named = ", ".join(behind[:5]) + (f" and {len(behind) - 5} more" if len(behind) > 5 else "")
        lines.append(f"kube-proxy is not Ready on {named}: these nodes may still connect to it first")
    if outcome.plane.connections is not None:
        lines.append(
            f"still connected to it: {outcome.plane.connections}; its own kubelet and controllers are among them. The "
            "rest go elsewhere when its API server stops"
        )
    elif outcome.plane.present:
        lines.append(f"what is still connected to it cannot be seen from here ({outcome.plane.why_unknown})")
    return [*lines, f"afterwards: apiha control-plane undrain {address}"]
