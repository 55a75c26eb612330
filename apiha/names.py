"""What the objects of the cluster side are called: every name follows from that of the Service.

The manifests grant rights by these names, and the updater uses them: both must say the same.
"""

from __future__ import annotations

from apiha.slices import FAMILIES, Family

SERVICE = "apiserver"
SERVICE_LABEL = "kubernetes.io/service-name"  # KEP-752: how a slice says whose it is


def slice_name(service: str, family: Family) -> str:
    """The EndpointSlice of a Service for one family: a slice holds addresses of one only."""
    return service if family == "IPv4" else f"{service}-ipv6"


def slice_names(service: str) -> dict[str, Family]:
    """Every EndpointSlice that the updater of a Service writes, with its family."""
    return {slice_name(service, family): family for family in FAMILIES}


def lease_name(service: str) -> str:
    """The Lease by which the updaters of a Service elect their leader."""
    return f"{service}-updater"
