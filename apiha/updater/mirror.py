"""What the mirrored EndpointSlices should be. Pure.

Reads: slices of the source, the live slices, the health verdict. Writes: nothing.

The formats are those of discovery.k8s.io/v1:
https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from apiha import names
from apiha.endpoint import Endpoint
from apiha.slices import FAMILIES, ControlPlane, Family, Slice, control_planes
from apiha.updater.health import Verdict

MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"  # KEP-752: keeps other controllers' hands off it
MANAGED_BY = "apiserver-updater.apiha"
LEADER_ANNOTATION = "apiserver-updater.apiha/leader"


@dataclass(frozen=True)
class Target:
    """The Service whose slices are kept."""

    namespace: str
    service: str

    def slice_name(self, family: Family) -> str:
        """The name of the slice for a family: a slice holds addresses of one only."""
        return names.slice_name(self.service, family)

    @property
    def slice_names(self) -> dict[str, Family]:
        """Every name that is ours, with its family."""
        return names.slice_names(self.service)

    def labels(self) -> dict[str, str]:
        """The labels that make a slice this Service's, and ours."""
        return {names.SERVICE_LABEL: self.service, MANAGED_BY_LABEL: MANAGED_BY}


@dataclass(frozen=True)
class Plan:
    """What should be: slices by name, and what had to be decided on the way.

    `other_port` are control planes left out because they listen on another port than most: the ports of a
    slice hold for all its endpoints. `health_ignored` are the families in which no control plane is known to
    be alive, so that no failure counts. `drained` are those that are unready because somebody drained them;
    `drained_in_use` those that are used all the same, since no other of their family is ready.
    """

    slices: Mapping[str, dict[str, Any]]
    mirrored: tuple[Endpoint, ...] = ()
    ready: tuple[Endpoint, ...] = ()
    other_port: tuple[Endpoint, ...] = ()
    health_ignored: tuple[Family, ...] = ()
    drained: tuple[Endpoint, ...] = ()
    drained_in_use: tuple[Endpoint, ...] = ()


def plan(
    target: Target,
    planes: Collection[ControlPlane],
    health: Verdict,
    port_name: str | None,
    drained: Collection[str] = (),
) -> Plan:
    """The slices that mirror `planes`, with those that are off or drained unready; `port_name` is that of the
    Service's port, `drained` are addresses.

    Never all off: a failure counts only where a ready control plane of the same family is alive. Where none
    is, from where this process stands, the failures say more about the place than about the control planes,
    and the slice says what `kubernetes` says. In the same way a drain counts only where a control plane of the
    same family that is not drained is ready. Without any control plane there are no slices: nothing known is
    no reason to change anything.
    """
    slices: dict[str, dict[str, Any]] = {}
    mirrored: list[Endpoint] = []
    ready: list[Endpoint] = []
    other_port: list[Endpoint] = []
    ignored: list[Family] = []
    held_back: list[Endpoint] = []
    in_use: list[Endpoint] = []
    for family in FAMILIES:
        members = [plane for plane in planes if plane.family == family]
        if not members:
            continue
        port = _common_port(members)
        other_port += [plane.endpoint for plane in members if plane.endpoint.port != port]
        members = [plane for plane in members if plane.endpoint.port == port]
        failed = {plane.endpoint for plane in members if plane.endpoint in health.off}
        if failed and not any(plane.ready and plane.endpoint in health.alive for plane in members):
            failed = set()
            ignored.append(family)
        out = {plane.endpoint for plane in members if plane.endpoint.address in drained}
        if out and not any(
            plane.ready and plane.endpoint not in failed and plane.endpoint not in out for plane in members
        ):
            in_use += sorted(out)
            out = set()
        held_back += sorted(out)
        name = target.slice_name(family)
        slices[name] = _slice(target, name, family, members, failed, out, port, port_name)
        mirrored += [plane.endpoint for plane in members]
        ready += [plane.endpoint for plane in members if plane.ready and plane.endpoint not in failed | out]
    return Plan(
        slices,
        tuple(mirrored),
        tuple(ready),
        tuple(other_port),
        tuple(ignored),
        tuple(held_back),
        tuple(in_use),
    )


def _common_port(members: Collection[ControlPlane]) -> int:
    """The port that most (ready first) control planes listen on; the lowest of equals."""
    ready = Counter(plane.endpoint.port for plane in members if plane.ready)
    every = Counter(plane.endpoint.port for plane in members)
    return min(every, key=lambda port: (-ready[port], -every[port], port))


def _slice(
    target: Target,
    name: str,
    family: Family,
    members: Collection[ControlPlane],
    failed: Collection[Endpoint],
    drained: Collection[Endpoint],
    port: int,
    port_name: str | None,
) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": target.namespace, "labels": target.labels()},
        "addressType": family,
        "endpoints": [
            _endpoint(plane, plane.endpoint not in failed, plane.endpoint in drained) for plane in members
        ],
        "ports": [{**({"name": port_name} if port_name else {}), "port": port, "protocol": "TCP"}],
    }


def _endpoint(plane: ControlPlane, healthy: bool, drained: bool) -> dict[str, Any]:
    # One that is drained still serves the connections that it has.
    ready = plane.ready and healthy and not drained
    conditions = {"ready": ready, "serving": plane.serving and healthy}
    if plane.terminating is not None:
        conditions["terminating"] = plane.terminating
    entry: dict[str, Any] = {"addresses": [plane.endpoint.address], "conditions": conditions}
    if plane.node_name:
        entry["nodeName"] = plane.node_name
    if plane.zone:
        entry["zone"] = plane.zone
    return entry


def without_endpoints(live: Slice, target: Target) -> dict[str, Any]:
    """Our own slice of a family that `kubernetes` no longer has, emptied (deleting it would need one more
    right).
    """
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": live["metadata"]["name"],
            "namespace": target.namespace,
            "labels": target.labels(),
        },
        "addressType": live["addressType"],
        "endpoints": [],
        "ports": list(live.get("ports") or ()),
    }


def desired(
    wanted: Plan, live: Mapping[str, Slice], target: Target, leader: str
) -> dict[str, dict[str, Any]]:
    """Every slice to be had, with the leader's mark on it; empty while nothing is known of any control plane."""
    slices = dict(wanted.slices)
    if slices:
        for name in target.slice_names:
            if name not in slices and name in live:
                slices[name] = without_endpoints(live[name], target)
    return {
        name: {**item, "metadata": {**item["metadata"], "annotations": {LEADER_ANNOTATION: leader}}}
        for name, item in slices.items()
    }


def differs(live: Slice, wanted: Slice) -> bool:
    """Whether a live slice is not what we want of it, in the fields that we own; what others added is theirs."""
    for kind in ("labels", "annotations"):
        there = live.get("metadata", {}).get(kind) or {}
        if any(there.get(key) != value for key, value in (wanted["metadata"].get(kind) or {}).items()):
            return True
    if live.get("addressType") != wanted["addressType"]:
        return True
    if list(live.get("endpoints") or ()) != wanted["endpoints"]:
        return True
    return [_bare_port(port) for port in live.get("ports") or ()] != [
        _bare_port(port) for port in wanted["ports"]
    ]


def agrees(wanted: Plan, live: Mapping[str, Slice], target: Target) -> bool:
    """Whether the live slices have the addresses and ports that they should, whatever their conditions and marks.

    That is all that a replica can judge that does not lead: which control planes are healthy only the leader knows.
    """
    return bool(wanted.slices) and all(
        name in live and not differs(_without_judgement(live[name]), _without_judgement(item))
        for name, item in desired(wanted, live, target, "").items()
    )


def _without_judgement(item: Slice) -> dict[str, Any]:
    """A slice without what its leader alone decides: the mark, and the conditions."""
    bare = [
        {key: value for key, value in entry.items() if key != "conditions"}
        for entry in item.get("endpoints") or ()
    ]
    labels = item.get("metadata", {}).get("labels") or {}
    return {**item, "metadata": {"labels": labels}, "endpoints": bare}


def _bare_port(port: Mapping[str, Any]) -> dict[str, Any]:
    """A port without what the API server fills in: no name is an empty name, no protocol is TCP."""
    defaults = {"name": "", "protocol": "TCP"}
    return {**defaults, **{key: value for key, value in port.items() if value is not None}}


def unready_endpoints(live: Iterable[Slice]) -> frozenset[Endpoint]:
    """The endpoints that mirrored slices have turned off: what a new leader starts its health book from."""
    planes = control_planes(live)
    return frozenset(plane.endpoint for plane in planes if not plane.ready)


def held_back(live: Iterable[Slice]) -> frozenset[str]:
    """The addresses that mirrored slices call unready but serving: what stands in for the drains of a Service that
    cannot be read yet.
    """
    planes = control_planes(live)
    return frozenset(plane.endpoint.address for plane in planes if plane.serving and not plane.ready)


def foreign(live: Mapping[str, Slice], target: Target) -> dict[str, str]:
    """Slices of our Service that somebody else made: name to maker, as their `managed-by` label tells."""
    return {
        name: str((item.get("metadata", {}).get("labels") or {}).get(MANAGED_BY_LABEL) or "somebody unnamed")
        for name, item in sorted(live.items())
        if name not in target.slice_names
    }
