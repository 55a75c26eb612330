"""What the Service says, and what is wrong with it. Pure.

Reads: the Service as the API server tells it (None where there is none). Writes: nothing.

https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from apiha.slices import FAMILIES, Family

Service = Mapping[str, Any]

APPLY = "to fix it: `apiha manifests ... | kubectl apply -f -`"


def families(service: Service | None, vips: Collection[str]) -> frozenset[Family]:
    """The address families that the Service has, else those of `vips` (those that it should have), else both."""
    spec = (service or {}).get("spec") or {}
    addresses = spec.get("clusterIPs") or vips
    named = spec.get("ipFamilies") or ["IPv6" if ":" in address else "IPv4" for address in addresses]
    return frozenset(family for family in FAMILIES if family in named) or frozenset(FAMILIES)


def port_name(service: Service | None) -> str | None:
    """The name of the Service's TCP port, which its slices must carry; `https` where there is no Service to ask."""
    ports = _tcp_ports(service)
    ports.sort(key=lambda port: port.get("name") != "https")
    return ports[0].get("name") if ports else "https"


def problem(service: Service | None, where: str, vips: Collection[str]) -> str | None:
    """What is wrong with the Service `where` (`namespace/name`), in one line that says what to do; None if nothing is.

    `vips` are the clusterIPs that it should have; none given, none are checked.
    """
    if service is None:
        return f"the Service {where} does not exist; its EndpointSlices are kept all the same; {APPLY}"
    spec = service.get("spec") or {}
    addresses = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    if vips and set(addresses) != set(vips):
        return (
            f"the Service {where} has the clusterIPs {', '.join(addresses) or 'none'}, not {', '.join(vips)} "
            "(--vip): nodes that use --vip do not reach it. A clusterIP cannot be changed: delete the Service and "
            "apply the manifests again, or correct --vip"
        )
    if spec.get("selector"):
        return (
            f"the Service {where} has a selector, so Kubernetes adds slices of its own: remove spec.selector; "
            f"{APPLY}"
        )
    if not _tcp_ports(service):
        return f"the Service {where} has no TCP port; {APPLY}"
    return None


def _tcp_ports(service: Service | None) -> list[Mapping[str, Any]]:
    ports = ((service or {}).get("spec") or {}).get("ports") or ()
    return [port for port in ports if port.get("protocol", "TCP") == "TCP"]
