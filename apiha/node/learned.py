"""What a node can learn from the API server: which control planes there are now, and which cluster it is.

The list in the configuration is only where a node starts from. The API servers keep themselves in the EndpointSlice
of the Service `default/kubernetes`; a node reads it with the kubelet's own client certificate and remembers it
(`memory`), so that it finds its way even after every control plane of its configuration was replaced.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from apiha.config import Config
from apiha.documents import at, mappings
from apiha.drained import of_service
from apiha.endpoint import Endpoint
from apiha.errors import ApihaError, ConfigError
from apiha.names import SERVICE
from apiha.node.memory import MOST, uid_or_none
from apiha.paths import KUBELET_KUBECONFIG
from apiha.probe import Prober
from apiha.slices import Slice, ready_endpoints, slices_of_endpoints
from apiha.trust import pem_file, read_kubeconfig

# The API servers keep themselves in this one slice, called like its Service (pkg/controlplane/reconcilers). Read by its
# name, so that a node's right to it can be a right to nothing else (see manifests/nodes-rbac.yaml).
SLICE_PATH = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
ENDPOINTS_PATH = "/api/v1/namespaces/default/endpoints/kubernetes"
# Its UID is what tells clusters apart that share a CA: every cluster has this namespace, and makes its own.
NAMESPACE_PATH = "/api/v1/namespaces/kube-system"
# The Service behind the VIP says which control planes are drained. Found by its clusterIP: a node does not know its
# namespace. kubelets may read all Services (rule `services` of NodeRules). resourceVersion 0: from memory, not etcd.
SERVICE_PATH = "/api/v1/services?fieldSelector=spec.clusterIP%3D{vip}&resourceVersion=0"
# That selector knows a Service's first address only (pkg/apis/core/v1/conversion.go). The second one, of the other
# family, is looked for among the Services with the name that `apiha manifests` gives it.
NAMED_SERVICES_PATH = f"/api/v1/services?fieldSelector=metadata.name%3D{SERVICE}&resourceVersion=0"
REQUEST_TIMEOUT = (
    2.0  # seconds for each of at most five requests, whatever `probe_timeout` is: a pass waits for them
)
_LARGEST_ANSWER = 1 << 20  # bytes; the slice of a hundred control planes is some 20 KB


class NotLearned(ApihaError):
    """The control planes could not be read from the API server; the message says why."""


class Refused(NotLearned):
    """The API server said something that no cluster says; nothing of it is taken."""


def fetch_control_planes(prober: Prober, endpoint: Endpoint) -> tuple[Endpoint, ...]:
    """The control planes that the API server at `endpoint` knows, sorted; raises NotLearned, Refused.

    Reads the EndpointSlice, and where the node may not (its right comes with `apiha manifests`) or there is none of
    that name, the deprecated Endpoints, which every kubelet may read: rule `endpoints` of NodeRules,
    plugin/pkg/auth/authorizer/rbac.
    """
    status, data = _get(prober, endpoint, SLICE_PATH)
    deprecated = status in (403, 404)
    if deprecated:
        status, data = _get(prober, endpoint, ENDPOINTS_PATH)
    if status != 200:
        raise NotLearned(
            f"{endpoint} answered HTTP {status} for the addresses of the Service default/kubernetes"
        )
    document = _json(endpoint, data)
    return control_planes_of(slices_of_endpoints(document) if deprecated else (document,))


def fetch_cluster_uid(prober: Prober, endpoint: Endpoint) -> str | None:
    """The UID of the namespace kube-system at `endpoint`; None where this node may not read it. Raises NotLearned."""
    status, data = _get(prober, endpoint, NAMESPACE_PATH)
    return uid_or_none(at(_json(endpoint, data), "metadata", "uid")) if status == 200 else None


def fetch_drained(prober: Prober, endpoint: Endpoint, vip: str) -> frozenset[str] | None:
    """The addresses of the control planes that are drained, by the annotation of the Service that has this address.

    Empty for a VIP that is no Service's. None where this node may not read Services. Raises NotLearned.
    """
    services = _services(prober, endpoint, SERVICE_PATH.format(vip=vip.replace(":", "%3A")))
    if services is not None and not services:
        named = _services(prober, endpoint, NAMED_SERVICES_PATH)
        services = None if named is None else [service for service in named if _has_address(service, vip)]
    if services is None:
        return None
    return frozenset(address for service in services[:1] for address in of_service(service).addresses)


def _has_address(service: Mapping[str, Any], vip: str) -> bool:
    addresses = at(service, "spec", "clusterIPs")
    return isinstance(addresses, list) and vip in addresses


def _services(prober: Prober, endpoint: Endpoint, path: str) -> list[Mapping[str, Any]] | None:
    """The Services of one list; None where this node may not read them. Raises NotLearned."""
    status, data = _get(prober, endpoint, path)
    return mappings(at(_json(endpoint, data), "items")) if status == 200 else None


def control_planes_of(slices: Iterable[Slice]) -> tuple[Endpoint, ...]:
    """The ready control planes that these slices name, sorted; raises NotLearned if there is none, Refused if there are
    more than a cluster can have.
    """
    found = ready_endpoints(slices)
    if not found:
        raise NotLearned("the Service default/kubernetes has no ready address")
    if len(found) > MOST:
        raise Refused(f"the Service default/kubernetes names {len(found)} addresses; expected at most {MOST}")
    return tuple(sorted(found))


def ask(prober: Prober, endpoint: Endpoint, path: str) -> tuple[int, Any]:
    """Status and document of one request, for those who want something else; raises NotLearned."""
    status, data = _get(prober, endpoint, path)
    return status, _json(endpoint, data)


def _json(endpoint: Endpoint, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotLearned(f"{endpoint} answered with something that is not JSON ({error})") from None


def _get(prober: Prober, endpoint: Endpoint, path: str) -> tuple[int, bytes]:
    """Status and body of one request; raises NotLearned.

    The bytes are taken as they come. Decoding what the server calls compressed could make gigabytes of a few.
    """
    data = bytearray()
    try:
        with prober.request(endpoint, path) as response:
            for chunk in response.iter_raw():
                data += chunk
                if len(data) > _LARGEST_ANSWER:
                    raise NotLearned(f"{endpoint} answered with more than {_LARGEST_ANSWER} bytes")
            return response.status_code, bytes(data)
    except NotLearned:
        raise
    except Exception as error:  # the network, and whatever a stranger's bytes make a library raise
        raise NotLearned(
            f"{endpoint}: {' '.join(str(error).split())[:200] or type(error).__name__}"
        ) from None


@contextlib.contextmanager
def node_prober(config: Config, *, kubelet: Path = KUBELET_KUBECONFIG) -> Iterator[Prober]:
    """A prober with this node's identity: `client_cert` if set, else what kubelet.conf holds.

    Raises ConfigError where the node has no client certificate (yet).
    """
    config = replace(config, probe_timeout=min(config.probe_timeout, REQUEST_TIMEOUT))
    if config.client_cert is not None:
        yield Prober.from_config(config)
        return
    identity = read_kubeconfig(kubelet)
    if identity.client_cert is None:
        raise ConfigError(f"{kubelet} holds no client certificate")
    with pem_file(identity.client_cert, identity.client_key) as path:
        yield Prober.from_config(replace(config, client_cert=path, client_key=None))
