"""The cluster seen from the switch: the API at any control plane's own address, as its admin, without kubectl."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.netns import Host

NAME = "apiserver.cluster.local"


@dataclass(frozen=True)
class Ready:
    """A node's condition Ready: `status` is True, False or Unknown; times are seconds since the epoch."""

    status: str
    heartbeat: float
    since: float


class Api:
    """Asks the control planes in turn, beginning with the one that answered last; each has `timeout` seconds."""

    def __init__(
        self, hub: Host, kubeconfig: Path, addresses: Callable[[], Sequence[str]], timeout: float = 2.0
    ):
        config = yaml.safe_load(kubeconfig.read_text())
        authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=authority)
        context.check_hostname = False  # the authority is enough: the name is what these tests are about
        user = config["users"][0]["user"]
        with tempfile.NamedTemporaryFile() as pem:
            pem.write(
                b"".join(base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key"))
            )
            pem.flush()
            context.load_cert_chain(pem.name)
        self._hub = hub
        self._addresses = addresses
        self._last = ""
        self._client = httpx.Client(verify=context, timeout=timeout, trust_env=False)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """The parsed answer, or None for 404. Raises ConnectionError if no control plane answers.

        Raises AssertionError for any other refusal. A PATCH is a JSON merge patch.
        """
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        content = None if body is None else json.dumps(body)
        problems = []
        for address in sorted(self._addresses(), key=lambda address: address != self._last):
            url = f"https://{f'[{address}]' if ':' in address else address}:6443{path}"
            try:
                answer = self._hub.call(
                    self._client.request, method, url, content=content, headers={"Content-Type": kind}
                )
            except httpx.TransportError as error:
                problems.append(f"{address}: {error!r}")
                continue
            # 403 as well: one that has just started does not know its roles yet.
            if answer.status_code >= 500 or answer.status_code in (403, 429):
                problems.append(f"{address}: {answer.status_code}")
                continue
            self._last = address
            if answer.status_code == 404:
                return None
            assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
            return answer.json()
        raise ConnectionError("; ".join(problems))

    def get(self, path: str) -> Any:
        """GET."""
        return self("GET", path)

    def items(self, path: str) -> list[dict[str, Any]]:
        """The items of a list."""
        found: list[dict[str, Any]] = self.get(path)["items"]
        return found

    def ready(self, node: str) -> Ready:
        """The node's condition Ready; status `absent` before it registers."""
        found = self.get(f"/api/v1/nodes/{node}") or {"status": {}}
        for condition in found["status"].get("conditions", []):
            if condition["type"] == "Ready":
                heartbeat = seconds(condition["lastHeartbeatTime"])
                return Ready(condition["status"], heartbeat, seconds(condition["lastTransitionTime"]))
        return Ready("absent", 0.0, 0.0)

    def lease(self, node: str) -> float:
        """When kubelet renewed the node's Lease last, in seconds since the epoch by the node's clock; 0 if never."""
        found = self.get(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}")
        return seconds(found["spec"]["renewTime"]) if found else 0.0

    def endpoints(self, service: str, namespace: str = "kube-system") -> list[str]:
        """The ready addresses of a Service, sorted."""
        selector = f"labelSelector=kubernetes.io/service-name%3D{service}"
        slices = self.items(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?{selector}")
        return sorted(
            address
            for item in slices
            for endpoint in item["endpoints"] or ()
            if endpoint.get("conditions", {}).get("ready", True)
            for address in endpoint["addresses"]
        )

    def pods(self, labels: str, namespace: str = "kube-system") -> list[dict[str, Any]]:
        """The Pods with these labels (`k8s-app=kube-proxy`)."""
        selector = labels.replace("=", "%3D")
        return self.items(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")


def seconds(stamp: str | None) -> float:
    """A time of Kubernetes as seconds since the epoch; 0 for none."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp() if stamp else 0.0


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether the Pod is Ready, and not being deleted."""
    conditions = pod["status"].get("conditions", [])
    ready = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]
