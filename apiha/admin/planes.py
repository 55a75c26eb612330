"""The control planes as the cluster tells of them: may this one be drained, and what does it still do? Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from apiha.drained import FORGOTTEN, Drain, Drained
from apiha.endpoint import Endpoint
from apiha.slices import ControlPlane

# A line of Prometheus's text format without a timestamp, which kube-apiserver writes none of.
_SAMPLE = re.compile(r"^(?P<name>[a-z_]+)(?:\{(?P<labels>.*)\})? (?P<value>[0-9.e+-]+)$", re.MULTILINE)
_IN_FLIGHT = "apiserver_current_inflight_requests"
_LONG_RUNNING = "apiserver_longrunning_requests"


@dataclass(frozen=True)
class Connections:
    """What an API server is doing: watches and other long requests (logs, exec), and short ones under way."""

    watches: int
    other_long: int
    short: int

    def __str__(self) -> str:
        return f"{self.watches} watches, {self.other_long} other long requests, {self.short} short ones"


@dataclass(frozen=True)
class Plane:
    """One control plane, or an address that is drained and gone.

    `present`: the API servers name it in the Service `kubernetes`. `ready`: the Service `apiserver` sends new
    connections to it. `connections` None: not asked, or it did not answer; `why_unknown` says which.
    """

    endpoint: Endpoint
    present: bool
    ready: bool
    drain: Drain | None = None
    connections: Connections | None = None
    why_unknown: str = ""


@dataclass(frozen=True)
class Planes:
    """All of them, sorted by address; `problems` are the parts of the annotation that cannot be used, `namespace` is
    the Service's.
    """

    planes: tuple[Plane, ...]
    problems: tuple[str, ...] = ()
    namespace: str = "kube-system"

    def of(self, address: str) -> Plane | None:
        """The one with this address."""
        return next((plane for plane in self.planes if plane.endpoint.address == address), None)

    def others_ready(self, address: str) -> tuple[Plane, ...]:
        """Those of the same address family that would take its new connections: ready, not drained, another one."""
        return tuple(
            plane
            for plane in self.planes
            if plane.ready
            and plane.drain is None
            and plane.endpoint.address != address
            and plane.endpoint.is_ipv6 == (":" in address)
        )


def planes_of(
    source: Iterable[ControlPlane], mirrored: Iterable[ControlPlane], drained: Drained, port: int
) -> Planes:
    """What the slices of `kubernetes` and of `apiserver`, and the Service's annotation, say together.

    `port` is that of an address which no slice names any more.
    """
    present = {plane.endpoint.address: plane.endpoint for plane in source}
    published = {plane.endpoint.address: plane for plane in mirrored}
    endpoints = {drain.address: Endpoint(drain.address, port) for drain in drained.drains}
    endpoints |= {address: plane.endpoint for address, plane in published.items()}
    endpoints |= present
    return Planes(
        tuple(
            Plane(
                endpoint,
                present=address in present,
                ready=address in published and published[address].ready,
                drain=drained.of(address),
            )
            for address, endpoint in sorted(endpoints.items(), key=lambda item: item[1])
        ),
        drained.problems,
    )


def refusal(planes: Planes, address: str) -> str | None:
    """Why this address cannot be drained, in one line that says what to do; None if it can."""
    known = planes.of(address)
    if known is None or not (known.present or known.ready or known.drain):
        there = ", ".join(plane.endpoint.address for plane in planes.planes) or "none"
        return f"{address} is not a control plane of this cluster (known: {there})"
    if known.drain is not None or planes.others_ready(address):
        return None
    family = [plane for plane in planes.planes if plane.endpoint.is_ipv6 == (":" in address)]
    states = ", ".join(
        f"{plane.endpoint.address} is {'drained' if plane.drain else 'not ready' if plane.present else 'gone'}"
        for plane in family
        if plane.endpoint.address != address or not known.ready
    )
    if not known.ready:
        return (
            f"no undrained control plane is ready in the Service {planes.namespace}/apiserver ({states}): does the "
            f"updater run (`kubectl -n {planes.namespace} get pods,leases`)? Fix one first"
        )
    return (
        f"{address} is the last ready control plane{f' ({states})' if states else ''}: drained, it would leave clients "
        "without any. Undrain or fix another one first"
    )


def warnings(planes: Planes, now: datetime) -> list[str]:
    """What somebody should look at, a line each."""
    found = [f"the annotation of the Service: {problem}" for problem in planes.problems]
    for plane in planes.planes:
        address, drain = plane.endpoint.address, plane.drain
        if drain is not None and drain.forgotten(now) and drain.since is not None:
            state = "is there" if plane.present else "is gone"
            found.append(
                f"{address} has been drained since {drain.since:%Y-%m-%d}, for more than {FORGOTTEN.days} days, and "
                f"{state}: end it with `apiha control-plane undrain {address}`"
            )
        elif drain is not None and plane.ready:
            found.append(
                f"{address} is drained and still ready: no other one is ready, or the updater does not follow"
            )
        elif drain is None and plane.present and not plane.ready:
            found.append(
                f"{address} is not ready: `kubectl -n {planes.namespace} events --for service/apiserver` says why"
            )
    return found


def connections_of(metrics: str) -> Connections:
    """What an API server's /metrics says of the requests that it is working on."""
    watches = other = short = 0.0
    for sample in _SAMPLE.finditer(metrics):
        if sample["name"] == _IN_FLIGHT:
            short += float(sample["value"])
        elif sample["name"] == _LONG_RUNNING:
            if 'verb="WATCH"' in (sample["labels"] or ""):
                watches += float(sample["value"])
            else:
                other += float(sample["value"])
    return Connections(int(watches), int(other), int(short))


@dataclass(frozen=True)
class KubeProxy:
    """One node's kube-proxy Pod; `version` is its image's tag."""

    node: str
    ready: bool
    version: str | None = None


def laggards(proxies: Sequence[KubeProxy]) -> list[str]:
    """The nodes whose kube-proxy is not Ready, so that nobody knows whether it follows."""
    return sorted(proxy.node for proxy in proxies if not proxy.ready)
