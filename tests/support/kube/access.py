"""The users of a cluster: their certificates and kubeconfigs, requests to the API, kubectl."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.support.kube.binaries import START_LIMIT, HarnessError, assets_directory, require_assets
from tests.support.kube.pki import Credentials, Pki
from tests.support.netns import Host, Network

HOST = "apiserver.cluster.local"


class Access:
    """What one does with a running cluster; `Cluster` is one, and gives the attributes below their values."""

    network: Network | None
    directory: Path
    ca_file: Path
    port: int
    addresses: list[str]
    """The control planes' addresses, where clients reach them."""
    pki: Pki

    def __init__(self) -> None:
        self.host = HOST
        self._kubeconfigs: dict[tuple[str, int | str], Path] = {}
        self._clients: dict[tuple[str, str | None], Credentials] = {}

    @property
    def lan(self) -> Network:
        """The network that the control planes are on. Raises ValueError for a cluster without one."""
        if self.network is None:
            raise ValueError("only a cluster with netns=True has a network of its own")
        return self.network

    @property
    def endpoints(self) -> list[str]:
        """The same with the port, ADDRESS:PORT."""
        return [f"{address}:{self.port}" for address in self.addresses]

    @property
    def url(self) -> str:
        """The API server by name, for those who have a hosts file that knows it."""
        return f"https://{self.host}:{self.port}"

    def hosts(self, *addresses: str) -> str:
        """The text of a hosts file that points the name at these addresses in order, or at all of them."""
        lines = [f"{address}\t{self.host}\n" for address in addresses or self.addresses]
        return "127.0.0.1\tlocalhost\n::1\tlocalhost\n" + "".join(lines)

    def client(self, user: str = "admin", group: str | None = None) -> Credentials:
        """A client certificate. `admin` may do everything; `system:node:NAME` is a kubelet's, in its group.

        Other users have the rights that RBAC gives to them or to `group`.
        """
        if group is None:
            group = "system:masters" if user == "admin" else None
            group = "system:nodes" if user.startswith("system:node:") else group
        if (user, group) not in self._clients:
            file_name = f"client-{len(self._clients)}-{user.replace(':', '-').replace('/', '-')}"
            self._clients[user, group] = self.pki.issue(file_name, common_name=user, organization=group)
        return self._clients[user, group]

    def kubeconfig(self, user: str = "admin", server: int | str = 0) -> Path:
        """A kubeconfig file, all certificates inside, for control plane `server` or for a URL.

        By number it names the control plane's address, and the certificate's name as `tls-server-name`; a URL
        such as `https://apiserver.cluster.local:6443` is left to the reader's hosts file.
        """
        if (user, server) not in self._kubeconfigs:
            credentials = self.client(user)
            identity = {
                "client-certificate-data": _base64(credentials.cert),
                "client-key-data": _base64(credentials.key),
            }
            self._kubeconfigs[user, server] = self._write_kubeconfig(server, identity)
        return self._kubeconfigs[user, server]

    def service_account_kubeconfig(self, namespace: str, name: str, server: int | str = 0) -> Path:
        """A kubeconfig with a fresh token (an hour) of a service account that exists."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        asked = server if isinstance(server, int) else 0
        status, answer = self.api("POST", path, {"spec": {"expirationSeconds": 3600}}, server=asked)
        if status != 201:
            raise HarnessError(f"no token for {namespace}/{name}: {answer}")
        return self._write_kubeconfig(server, {"token": answer["status"]["token"]})

    def _write_kubeconfig(self, server: int | str, user: dict[str, str]) -> Path:
        cluster = {"certificate-authority-data": _base64(self.ca_file)}
        if isinstance(server, int):
            cluster |= {"server": f"https://{self.endpoints[server]}", "tls-server-name": self.host}
        else:
            cluster["server"] = server
        handle, name = tempfile.mkstemp(prefix="kubeconfig-", dir=self.directory)
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        with os.fdopen(handle, "w") as stream:
            json.dump(content, stream)  # JSON is YAML
        return Path(name)

    def api(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        server: int = 0,
        user: str | None = "admin",
        timeout: float = 30.0,
    ) -> tuple[int, Any]:
        """One request to control plane `server`: its status, and the answer (parsed if it is JSON).

        `user` None sends no certificate. A PATCH is a JSON merge patch. Raises httpx.TransportError when the
        API server does not answer.
        """
        address = self.addresses[server]
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if user is not None:
            credentials = self.client(user)
            context.load_cert_chain(credentials.cert, credentials.key)

        def request() -> httpx.Response:
            with httpx.Client(verify=context, timeout=timeout, trust_env=False) as client:
                return client.request(
                    method,
                    f"https://{address}:{self.port}{path}",
                    content=None if body is None else json.dumps(body),
                    headers={
                        "Content-Type": f"application/{'merge-patch+' if method == 'PATCH' else ''}json"
                    },
                    extensions={"sni_hostname": self.host},
                )

        answer = inside(self.network.hub if self.network is not None else None, request)
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return answer.status_code, answer.json() if is_json else answer.text

    def grant(self, user: str, role: str, rules: Sequence[Mapping[str, Any]]) -> None:
        """Give a user these rights everywhere, by a new ClusterRole. They count a moment later."""
        rbac, group = "/apis/rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
        binding = {
            "metadata": {"name": role},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        }
        for kind, body in (
            ("clusterroles", {"metadata": {"name": role}, "rules": list(rules)}),
            ("clusterrolebindings", binding),
        ):
            status, answer = self.api("POST", f"{rbac}/{kind}", body)
            assert status == 201, answer

    def kubectl(
        self, *arguments: str, server: int | str = 0, user: str = "admin", stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl to its end; look at `returncode`, `stdout` and `stderr`."""
        require_assets("kubectl")
        command = [
            str(assets_directory() / "kubectl"),
            f"--kubeconfig={self.kubeconfig(user, server)}",
            f"--cache-dir={self.directory / 'kubectl-cache'}",
            *arguments,
        ]
        command = self.network.hub.argv(command) if self.network is not None else command
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)

    def ready_endpoints(
        self, service: str = "kubernetes", namespace: str = "default", server: int = 0
    ) -> list[str]:
        """The ready addresses in a Service's EndpointSlices, sorted as text, as `server` tells them."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        _, answer = self.api(
            "GET", f"{path}?labelSelector=kubernetes.io/service-name%3D{service}", server=server
        )
        return sorted(
            address
            for item in answer["items"]
            for endpoint in item["endpoints"] or ()
            if endpoint.get("conditions", {}).get("ready", True)
            for address in endpoint["addresses"]
        )

    def wait_endpoints(
        self,
        addresses: Iterable[str],
        service: str = "kubernetes",
        namespace: str = "default",
        server: int = 0,
        limit: float = START_LIMIT,
    ) -> None:
        """Wait, `limit` seconds at most, until exactly these addresses are the Service's ready endpoints.

        A lost kube-apiserver leaves `kubernetes` when its lease ends, 15 s, and the next reconciliation
        comes, 10 s (`endpoint-reconciler-type=lease`; k8s.io/kubernetes/pkg/controlplane).
        """
        wanted, deadline = sorted(addresses), time.monotonic() + limit
        while (seen := self.ready_endpoints(service, namespace, server)) != wanted:
            if time.monotonic() > deadline:
                raise HarnessError(
                    f"the endpoints of {namespace}/{service} are {seen} after {limit:g} s, not {wanted}"
                )
            time.sleep(0.2)


def inside(host: Host | None, function: Callable[[], httpx.Response]) -> httpx.Response:
    """Make a request from inside this host, or from here (None)."""
    return host.call(function) if host is not None else function()


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
