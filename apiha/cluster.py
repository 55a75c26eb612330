"""What a node can learn from the API server: which control planes there are now.

The list in the configuration is only where a node starts from. The API servers keep themselves in the EndpointSlice
of the Service `default/kubernetes`; a node reads it with the kubelet's own client certificate and keeps it on disk, so
that it finds its way even after every control plane of its configuration was replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from apiha.config import Config
from apiha.endpoint import Endpoint, parse_ip, parse_port
from apiha.errors import ApihaError, ConfigError
from apiha.kubeconfig import KUBELET_KUBECONFIG, Kubeconfig, read_kubeconfig
from apiha.probe import Prober

DEFAULT_STATE_DIR = Path("/var/lib/apiha")
LEARNED = "control-planes.json"
# The slices of a Service carry its name in this label (KEP-752); those of `kubernetes` are written by the API servers.
SLICES_PATH = (
    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    "?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes"
)
_LARGEST_ANSWER = 1 << 20  # bytes; the slice of a hundred control planes is some 20 KB


class NotLearned(ApihaError):
    """The control planes could not be read from the API server; the message says why."""


def fetch_control_planes(prober: Prober, endpoint: Endpoint) -> tuple[Endpoint, ...]:
    """The control planes that the API server at `endpoint` knows, sorted; raises NotLearned."""
    try:
        with prober.request(endpoint, SLICES_PATH) as response:
            data = b""
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > _LARGEST_ANSWER:
                    raise NotLearned(f"{endpoint} answered with more than {_LARGEST_ANSWER} bytes")
            if response.status_code != 200:
                raise NotLearned(
                    f"{endpoint} answered HTTP {response.status_code} for the EndpointSlices of default/kubernetes"
                    + (
                        "; `apiha manifests` has the Role that lets nodes read them"
                        if response.status_code == 403
                        else ""
                    )
                )
        return parse_slices(json.loads(data))
    except NotLearned:
        raise
    except Exception as error:  # a stranger's bytes and the network alike
        raise NotLearned(
            f"{endpoint}: {' '.join(str(error).split())[:200] or type(error).__name__}"
        ) from None


def parse_slices(document: Any) -> tuple[Endpoint, ...]:
    """The endpoints of an EndpointSliceList (discovery.k8s.io/v1), sorted; raises NotLearned if it holds none.

    Endpoints that are not ready are left out; a `ready` that is absent counts as true, as the API defines it.
    """
    found: set[Endpoint] = set()
    try:
        for item in document["items"]:
            ports = [
                port["port"] for port in item.get("ports") or [] if port.get("name") in ("https", "", None)
            ]
            for entry in item.get("endpoints") or []:
                if (entry.get("conditions") or {}).get("ready") is not False:
                    found |= {
                        Endpoint(parse_ip(a), parse_port(p)) for a in entry["addresses"] for p in ports[:1]
                    }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotLearned(f"not a list of EndpointSlices ({error})") from None
    if not found:
        raise NotLearned("the Service default/kubernetes has no ready address")
    return tuple(sorted(found))


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
    except (OSError, ValueError, KeyError, TypeError):
        return ()  # it is a cache: the configuration stands in for it, and the next pass writes it anew


def save_learned(state_dir: Path, endpoints: Iterable[Endpoint]) -> bool:
    """Keep the control planes for the next start; False if they are kept already. Raises OSError."""
    wanted = tuple(sorted(endpoints))
    if load_learned(state_dir) == wanted:
        return False
    state_dir.mkdir(parents=True, exist_ok=True)
    document = {"control_planes": [{"address": e.address, "port": e.port} for e in wanted]}
    handle, name = tempfile.mkstemp(dir=state_dir, prefix=f".{LEARNED}-")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, state_dir / LEARNED)
    except BaseException:
        os.unlink(name)
        raise
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
    with _pem_file(identity) as path:
        yield Prober.from_config(replace(config, client_cert=path, client_key=None))


@contextlib.contextmanager
def _pem_file(identity: Kubeconfig) -> Iterator[Path]:
    """Certificate and key as one file that exists in memory only: OpenSSL reads them from a path."""
    descriptor = os.memfd_create("apiha-client-cert", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, f"{identity.client_cert}\n{identity.client_key or ''}\n".encode())
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
