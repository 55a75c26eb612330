"""The one reader of EndpointSlices (discovery.k8s.io/v1) and of the deprecated Endpoints (v1).

Nodes, the updater and `manifests --dry-run` all learn the control planes from what the API servers publish for
the Service `default/kubernetes`. They must agree on which ports and addresses count, so all of them read here. Pure,
and safe for anything that JSON can hold: what is not of the documented shape is left out.

https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from apiha.documents import at, mappings, text_or_none
from apiha.endpoint import Endpoint, parse_ip, parse_port

Family = Literal["IPv4", "IPv6"]
FAMILIES: tuple[Family, ...] = ("IPv4", "IPv6")
Slice = Mapping[str, Any]

PORT_NAME = "https"  # the API servers' own name for it: k8s.io/kubernetes/pkg/controlplane


@dataclass(frozen=True)
class ControlPlane:
    """One control plane as slices tell it; the conditions are those of an EndpointSlice."""

    endpoint: Endpoint
    ready: bool
    serving: bool
    terminating: bool | None = None
    node_name: str | None = None
    zone: str | None = None

    @property
    def family(self) -> Family:
        """The address family, as an EndpointSlice's `addressType` writes it."""
        return "IPv6" if self.endpoint.is_ipv6 else "IPv4"


def control_planes(slices: Iterable[Slice]) -> tuple[ControlPlane, ...]:
    """The control planes of these slices, merged, in an order that depends on nothing but themselves.

    An address that several slices name (which the API allows while one moves between slices) is ready if one
    of them says so. Host names (addressType FQDN) and entries that are no addresses are left out.
    """
    found: dict[Endpoint, ControlPlane] = {}
    for item in mappings(slices):
        port = _port(item)
        if port is None:
            continue
        for entry in mappings(item.get("endpoints")):
            for address in _list(entry.get("addresses")):
                endpoint = _endpoint(address, port)
                if endpoint is None:
                    continue
                plane = _read(endpoint, entry)
                found[endpoint] = _merge(found[endpoint], plane) if endpoint in found else plane
    return tuple(sorted(found.values(), key=lambda plane: _sort_key(plane.endpoint)))


def ready_endpoints(slices: Iterable[Slice]) -> tuple[Endpoint, ...]:
    """The endpoints of these slices that are ready, in the order of `control_planes`."""
    return tuple(plane.endpoint for plane in control_planes(slices) if plane.ready)


def slices_of_list(document: Any) -> tuple[Slice, ...]:
    """The items of an EndpointSliceList; none for anything else."""
    return tuple(mappings(at(document, "items")))


def slices_of_endpoints(document: Any) -> tuple[Slice, ...]:
    """A v1 Endpoints object as the slices that say the same; none for anything else.

    The mapping is that of the EndpointSlice mirroring controller (KEP-0752): a subset is a slice, `addresses` are
    ready and `notReadyAddresses` are not.
    """
    if not isinstance(document, Mapping):
        return ()
    found: list[Slice] = []
    for subset in mappings(document.get("subsets")):
        entries = [
            {"addresses": [address.get("ip")], "conditions": {"ready": ready}}
            for field, ready in (("addresses", True), ("notReadyAddresses", False))
            for address in mappings(subset.get(field))
        ]
        found.append({"endpoints": entries, "ports": subset.get("ports")})
    return tuple(found)


def _port(item: Slice) -> int | None:
    """The slice's port named https, else its first TCP one."""
    ports = [
        port
        for port in mappings(item.get("ports"))
        if port.get("protocol", "TCP") in ("TCP", None) and _is_port(port.get("port"))
    ]
    ports.sort(key=lambda port: port.get("name") != PORT_NAME)
    return int(ports[0]["port"]) if ports else None


def _is_port(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    try:
        return parse_port(value) == value
    except ValueError:
        return False


def _endpoint(address: object, port: int) -> Endpoint | None:
    try:
        return Endpoint(parse_ip(address), port) if isinstance(address, str) else None
    except ValueError:
        return None


def _read(endpoint: Endpoint, entry: Mapping[str, Any]) -> ControlPlane:
    conditions = entry.get("conditions")
    if not isinstance(conditions, Mapping):
        conditions = {}
    # An absent `ready` is to be read as true, an absent `serving` as `ready`, an absent `terminating` as
    # false.
    ready = conditions.get("ready") is not False
    serving = conditions.get("serving")
    terminating = conditions.get("terminating")
    return ControlPlane(
        endpoint,
        ready=ready,
        serving=ready if serving is None else bool(serving),
        terminating=terminating if isinstance(terminating, bool) else None,
        node_name=text_or_none(entry.get("nodeName")),
        zone=text_or_none(entry.get("zone")),
    )


def _merge(one: ControlPlane, other: ControlPlane) -> ControlPlane:
    best = one if (one.ready, one.serving) >= (other.ready, other.serving) else other
    rest = other if best is one else one
    return ControlPlane(
        one.endpoint,
        ready=best.ready,
        serving=best.serving,
        terminating=best.terminating,
        node_name=best.node_name or rest.node_name,
        zone=best.zone or rest.zone,
    )


def _sort_key(endpoint: Endpoint) -> tuple[int, int, int]:
    address = ipaddress.ip_address(endpoint.address)
    return (address.version, int(address), endpoint.port)


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []
