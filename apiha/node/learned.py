"""What a node can learn from the API server: which control planes there are now.

The list in the configuration is only where a node starts from. The API servers keep themselves in the EndpointSlice
of the Service `default/kubernetes`; a node reads it with the kubelet's own client certificate and keeps it on disk, so
that it finds its way even after every control plane of its configuration was replaced.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from apiha import files
from apiha.config import Config
from apiha.endpoint import Endpoint, parse_ip, parse_port
from apiha.errors import ApihaError, ConfigError
from apiha.paths import KUBELET_KUBECONFIG
from apiha.probe import Prober
from apiha.slices import Slice, ready_endpoints, slices_of_endpoints
from apiha.trust import pem_file, read_kubeconfig

LEARNED = "control-planes.json"
# The API servers keep themselves in this one slice, called like its Service (pkg/controlplane/reconcilers). Read by its
# name, so that a node's right to it can be a right to nothing else (see manifests/nodes-rbac.yaml).
SLICE_PATH = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
ENDPOINTS_PATH = "/api/v1/namespaces/default/endpoints/kubernetes"
_LARGEST_ANSWER = 1 << 20  # bytes; the slice of a hundred control planes is some 20 KB


class NotLearned(ApihaError):
    """The control planes could not be read from the API server; the message says why."""


def fetch_control_planes(prober: Prober, endpoint: Endpoint) -> tuple[Endpoint, ...]:
    """The control planes that the API server at `endpoint` knows, sorted; raises NotLearned.

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
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotLearned(f"{endpoint} answered with something else than JSON ({error})") from None
    return control_planes_of(slices_of_endpoints(document) if deprecated else (document,))


def control_planes_of(slices: Iterable[Slice]) -> tuple[Endpoint, ...]:
    """The ready control planes that these slices name, sorted; raises NotLearned if there is none."""
    found = ready_endpoints(slices)
    if not found:
        raise NotLearned("the Service default/kubernetes has no ready address")
    return tuple(sorted(found))


def _get(prober: Prober, endpoint: Endpoint, path: str) -> tuple[int, bytes]:
    """Status and body of one request; raises NotLearned."""
    data = b""
    try:
        with prober.request(endpoint, path) as response:
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > _LARGEST_ANSWER:
                    raise NotLearned(f"{endpoint} answered with more than {_LARGEST_ANSWER} bytes")
            return response.status_code, data
    except NotLearned:
        raise
    except Exception as error:  # the network, and whatever a stranger's bytes make a library raise
        raise NotLearned(
            f"{endpoint}: {' '.join(str(error).split())[:200] or type(error).__name__}"
        ) from None


def load_learned(state_dir: Path) -> tuple[Endpoint, ...]:
    """The control planes that an earlier run learned; empty where there are none or the file is damaged."""
    try:
        with open(state_dir / LEARNED, "rb") as file:
            document = json.loads(file.read(_LARGEST_ANSWER))
        return tuple(
            sorted(
                {Endpoint(parse_ip(e["address"]), parse_port(e["port"])) for e in document["control_planes"]}
            )
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()  # it is a cache: the configuration stands in for it, and the next pass writes it anew


def save_learned(state_dir: Path, endpoints: Iterable[Endpoint]) -> bool:
    """Keep the control planes for the next start; False if they are kept already. Raises OSError."""
    wanted = tuple(sorted(endpoints))
    if load_learned(state_dir) == wanted:
        return False
    state_dir.mkdir(parents=True, exist_ok=True)
    document = {"control_planes": [{"address": e.address, "port": e.port} for e in wanted]}
    path, data = str(state_dir / LEARNED), f"{json.dumps(document, indent=1)}\n".encode()
    with contextlib.suppress(files.ChangedMeanwhileError):  # another run has just kept what it learned
        files.replace(path, data, files.read(path)[1])
    return True


@contextlib.contextmanager
def node_prober(config: Config, *, kubelet: Path = KUBELET_KUBECONFIG) -> Iterator[Prober]:
    """A prober with this node's identity: `client_cert` if set, else what kubelet.conf holds.

    Raises ConfigError where the node has no client certificate (yet).
    """
    if config.client_cert is not None:
        yield Prober.from_config(config)
        return
    identity = read_kubeconfig(kubelet)
    if identity.client_cert is None:
        raise ConfigError(f"{kubelet} holds no client certificate")
    with pem_file(identity.client_cert, identity.client_key) as path:
        yield Prober.from_config(replace(config, client_cert=path, client_key=None))
