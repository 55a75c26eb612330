"""What the cluster's own objects say about a node's settings. Pure: API objects in, settings out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apiha.config import Config
from apiha.documents import at, mappings
from apiha.endpoint import Endpoint, parse_ip, parse_port
from apiha.errors import ApihaError, ConfigError
from apiha.findings import docs_link
from apiha.names import SERVICE

# What `apiha manifests` puts on every object of its own.
_PART_OF = ("app.kubernetes.io/part-of", "apiha")
_USUAL_NAMESPACE = "kube-system"  # where `apiha manifests` puts the Service unless told otherwise

# What to give where it is not found.
ADVICE = {"control_plane": "--control-plane ADDR,...", "vip": "--vip ADDR"}


@dataclass(frozen=True)
class Vip:
    """A Service that may be the VIP: its first clusterIP, the port for HTTPS, and NAMESPACE/NAME."""

    address: str
    port: int
    service: str


@dataclass(frozen=True)
class Found:
    """One setting that was found: its key, its text as the flag would have it, and in words where it is from."""

    key: str
    text: str
    source: str


def vip_of(services: Any) -> Vip:
    """The VIP among the Services of a ServiceList that are called `apiserver`; raises ConfigError if it is not clear.

    Services that `apiha manifests` made count first. Without any, one in kube-system that somebody made will do.
    It must have no selector, or it is some other program's.
    """
    named = [item for item in mappings(at(services, "items")) if at(item, "metadata", "name") == SERVICE]
    ours = [item for item in named if at(item, "metadata", "labels", _PART_OF[0]) == _PART_OF[1]]
    theirs = [
        item
        for item in named
        if at(item, "metadata", "namespace") == _USUAL_NAMESPACE and not at(item, "spec", "selector")
    ]
    vips = [vip for item in ours or theirs if (vip := _vip(item)) is not None]
    if not vips:
        link = docs_link("cluster.md#3-the-service-and-its-updater")
        raise ConfigError(
            f"vip: not given, and the cluster has no Service `{SERVICE}`: apply `apiha manifests` first ({link}), or "
            f"give {ADVICE['vip']}"
        )
    if len(vips) > 1:
        shown = ", ".join(f"{vip.service} ({vip.address})" for vip in vips)
        raise ConfigError(
            f"vip: not given, and the cluster has several Services for it: {shown}; give {ADVICE['vip']}"
        )
    return vips[0]


def settings_found(
    planes: Sequence[Endpoint], vip: Vip | None, given: Collection[str], *, asked: str, given_port: int | None
) -> tuple[Found, ...]:
    """The settings that follow for a node, but for those that were given.

    Clients dial one port, that of the VIP. A control plane on another one is written with it. `asked` says in words
    who told, and as whom it was asked.
    """
    ports = {plane.port for plane in planes}
    port = given_port or (vip.port if vip is not None else ports.pop() if len(ports) == 1 else Config.port)
    found = []
    if planes and "control_plane" not in given:
        texts = [plane.address if plane.port == port else str(plane) for plane in planes]
        found.append(Found("control_plane", ",".join(texts), f"the Service default/kubernetes ({asked})"))
    if vip is not None and "vip" not in given:
        found.append(Found("vip", vip.address, f"the Service {vip.service} ({asked})"))
    if port != Config.port and given_port is None:
        source = f"the Service {vip.service}" if vip is not None else "the Service default/kubernetes"
        found.append(Found("port", str(port), f"{source} ({asked})"))
    return tuple(found)


def missing(
    problems: Mapping[str, ApihaError], settings: Collection[str], given: Collection[str]
) -> ApihaError | None:
    """Why a node with these `settings` cannot be started; None if it can.

    Without a VIP it can if its control planes were `given`: somebody knows what he does.
    """
    if "control_plane" not in settings:
        return problems.get("control_plane")
    if "vip" not in settings and "control_plane" not in given:
        return problems.get("vip")
    return None


def _vip(service: Mapping[str, Any]) -> Vip | None:
    """The VIP that a Service is; None for a headless one, and one without a port."""
    ports = [port for port in mappings(at(service, "spec", "ports")) if port.get("protocol", "TCP") == "TCP"]
    ports.sort(key=lambda port: port.get("name") != "https")
    try:
        address = parse_ip(str(at(service, "spec", "clusterIP")))
        port = parse_port(str(ports[0]["port"]))
    except (ValueError, LookupError):
        return None
    return Vip(address, port, f"{at(service, 'metadata', 'namespace')}/{at(service, 'metadata', 'name')}")
