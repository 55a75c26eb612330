"""Real Kubernetes control planes for tests: etcd, kube-apiservers, kube-proxies, each in a network namespace.

    with Cluster(n=3) as cluster:                      # root: 10.0.0.11, .12 and .13 on one bridge
        worker = cluster.add_worker("worker-1")
        cluster.kill_apiserver(0)                      # or stop_, pause_, cut: the ways in which one goes
        worker.run(["apiha", "status"])

    with Cluster(n=1, netns=False) as cluster:         # anybody: 127.0.0.11 and a free port
        cluster.api("GET", "/api/v1/nodes")

The binaries are found as envtest (sigs.k8s.io/controller-runtime) finds them: in `$KUBEBUILDER_ASSETS`, or
else in `/usr/local/kubebuilder/bin`. Every process ends with the `with` block, and with this process, however
it ends.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trustme

from tests.support.netns import Host, Network, require_root

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "apiserver.cluster.local"
PORT = 6443
SERVICE_CIDR = "10.96.0.0/16"
POD_CIDR = "10.244.0.0/16"

# What every serving certificate of kubeadm names, but for the node's own name and addresses.
SERVING_NAMES = (
    HOST,
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)

_START_LIMIT = 90.0  # seconds: a slow machine's, not what a start takes
_TAIL = 25  # lines of a log


def assets_directory() -> Path:
    """Where the binaries are, by envtest's rule."""
    return Path(os.environ.get("KUBEBUILDER_ASSETS") or "/usr/local/kubebuilder/bin")


def require_assets(*names: str) -> None:
    """Skip the running test or fixture if one of these binaries is not there, saying how to provide it."""
    directory = assets_directory()
    absent = [name for name in names if not os.access(directory / name, os.X_OK)]
    if absent:
        pytest.skip(
            f"needs {', '.join(absent)} in {directory}: put them there from a Kubernetes release, or set "
            "KUBEBUILDER_ASSETS to the folder that `setup-envtest use -p path` prints (it holds "
            "kube-apiserver, etcd and kubectl)"
        )


class HarnessError(Exception):
    """A part of the cluster did not come up; the message holds the end of its log."""


@dataclass(frozen=True)
class Credentials:
    """A certificate chain and its key, PEM files."""

    cert: Path
    key: Path


class _Pki:
    """The cluster's CA, and what it signs; also the key pair that signs service account tokens."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._ca = trustme.CA(organization_name="apiha test cluster")
        self.ca_file = directory / "ca.crt"
        self.ca_key_file = directory / "ca.key"
        self._ca.cert_pem.write_to_path(str(self.ca_file))
        self._ca.private_key_pem.write_to_path(str(self.ca_key_file))
        # A certificate's key pair will do for the tokens: kube-apiserver takes certificates as public keys.
        self.service_accounts = self.issue("service-accounts", common_name="service-accounts")

    def issue(
        self, file_name: str, *identities: str, common_name: str, organization: str | None = None
    ) -> Credentials:
        """A certificate for these DNS names and addresses (serving), or for a user in a group (client)."""
        # trustme marks the alternative names critical, and Go refuses a critical list that is empty.
        leaf = self._ca.issue_cert(
            *(identities or ("client.invalid",)), common_name=common_name, organization_name=organization
        )
        issued = Credentials(self._directory / f"{file_name}.crt", self._directory / f"{file_name}.key")
        issued.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(issued.key))
        issued.key.chmod(0o600)
        return issued


@dataclass
class _Server:
    """One control plane: its address, its namespace (None: this machine's own), its API server's process."""

    name: str
    address: str
    host: Host | None
    serving: Credentials
    process: subprocess.Popen[Any] | None = None


class Cluster:
    """`n` kube-apiservers over one etcd; a context manager, ready when entered.

    Control planes are counted from 0. With `netns`, control plane i is the host `cp{i+1}` of `network`,
    address 10.0.0.{11+i}, and etcd and the controller manager run in the hub, out of harm's way. Without, the
    addresses are 127.0.0.{11+i}, and the cluster is told 192.0.2.{11+i} (RFC 5737), as it takes no loopback
    endpoints.

    `ip_sans` puts each control plane's address into its certificate: off, since nodes must not depend on it.
    `anonymous_auth` is kube-apiserver's flag: without it `/readyz` answers 401 to those without a
    certificate. `controller_manager` starts one: service accounts, deletion of namespaces, Deployments, node
    health. `kube_proxy` only demands the binary at once; `start_kube_proxy` runs it. `names` are the serving
    certificates' DNS names, `apiserver_args` further flags.
    """

    def __init__(
        self,
        n: int = 3,
        *,
        netns: bool = True,
        directory: Path | None = None,
        kube_proxy: bool = False,
        controller_manager: bool = False,
        anonymous_auth: bool = True,
        ip_sans: bool = False,
        names: Sequence[str] = SERVING_NAMES,
        apiserver_args: Iterable[str] = (),
    ) -> None:
        self.network = Network() if netns else None
        self.host = HOST
        self.port = PORT if netns else 0  # a free one is found at the start
        self.workers: dict[str, Host] = {}
        self._n = n
        self._given_directory = directory
        self._needs = ["etcd", "kube-apiserver"]
        self._needs += ["kube-proxy"] if kube_proxy else []
        self._needs += ["kube-controller-manager"] if controller_manager else []
        self._controller_manager = controller_manager
        self._anonymous_auth = anonymous_auth
        self._ip_sans = ip_sans
        self._names = tuple(names)
        self._apiserver_args = tuple(apiserver_args)
        self._servers: list[_Server] = []
        self._processes: list[subprocess.Popen[Any]] = []
        self._logs: dict[str, Path] = {}
        self._kubeconfigs: dict[tuple[str, int | str], Path] = {}
        self._clients: dict[tuple[str, str | None], Credentials] = {}

    # ------------------------------------------------------------------------------------------ start and end

    def __enter__(self) -> Self:
        require_assets(*self._needs)
        if self.network is not None:
            require_root()
        self.directory = self._given_directory or Path(tempfile.mkdtemp(prefix="apiha-kube-"))
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process, remove namespaces, and files unless the folder was given; safe to repeat."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._processes.clear()
        if self.network is not None:
            self.network.close()
        if self._given_directory is None:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self) -> None:
        self._pki = _Pki(self.directory / "pki")
        self.ca_file = self._pki.ca_file
        if self.network is not None:
            self.network.__enter__()
            addresses = [f"10.0.0.{11 + i}" for i in range(self._n)]
            hosts: list[Host | None] = [
                self.network.add_host(f"cp{i + 1}", address, f"fd00::{11 + i}")
                for i, address in enumerate(addresses)
            ]
        else:
            addresses = [f"127.0.0.{11 + i}" for i in range(self._n)]
            hosts = [None] * self._n
            self.port = _free_port(addresses)
        for i, (address, host) in enumerate(zip(addresses, hosts, strict=True)):
            name = f"cp{i + 1}"
            sans = (*self._names, *((address,) if self._ip_sans else ()))
            serving = self._pki.issue(name, *sans, common_name="kube-apiserver")
            self._servers.append(_Server(name, address, host, serving))
        self._start_etcd()
        for i in range(self._n):
            self.start_apiserver(i, wait=False)
        for i in range(self._n):
            self.wait_ready(i)
        if self._controller_manager:
            self._start_controller_manager()

    def _start_etcd(self) -> None:
        hub = self.network.hub if self.network is not None else None
        address = hub.address if hub is not None else "127.0.0.1"
        client, peer = (2379, 2380) if hub is not None else (_free_port([address]), _free_port([address]))
        self._etcd = f"http://{address}:{client}"
        process = self._spawn(
            "etcd",
            hub,
            [
                "etcd",
                f"--data-dir={self.directory / 'etcd'}",
                f"--listen-client-urls={self._etcd}",
                f"--advertise-client-urls={self._etcd}",
                f"--listen-peer-urls=http://{address}:{peer}",
                "--unsafe-no-fsync=true",  # a test's data need not survive the machine
                "--log-level=error",
            ],
        )

        def healthy() -> bool:
            return self._inside(
                hub, lambda: httpx.get(f"{self._etcd}/health", timeout=2.0, trust_env=False)
            ).is_success

        self._wait("etcd", process, healthy)

    def start_apiserver(self, i: int, *, wait: bool = True) -> None:
        """Start control plane i's API server; with `wait`, until it is ready."""
        server = self._servers[i]
        if server.process is not None and server.process.poll() is None:
            raise ValueError(f"the API server of {server.name} runs already")
        advertised = server.address if server.host is not None else f"192.0.2.{11 + i}"
        keys = self._pki.service_accounts
        server.process = self._spawn(
            f"kube-apiserver-{server.name}",
            server.host,
            [
                "kube-apiserver",
                f"--bind-address={'::' if server.host is not None else server.address}",
                f"--secure-port={self.port}",
                f"--advertise-address={advertised}",
                f"--etcd-servers={self._etcd}",
                "--endpoint-reconciler-type=lease",
                f"--service-cluster-ip-range={SERVICE_CIDR}",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                f"--anonymous-auth={str(self._anonymous_auth).lower()}",
                f"--client-ca-file={self.ca_file}",
                f"--tls-cert-file={server.serving.cert}",
                f"--tls-private-key-file={server.serving.key}",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                f"--service-account-key-file={keys.cert}",
                f"--service-account-signing-key-file={keys.key}",
                "--allow-privileged=true",
                "--profiling=false",
                *self._apiserver_args,
            ],
        )
        if wait:
            self.wait_ready(i)

    def wait_ready(self, i: int) -> None:
        """Wait until control plane i answers 200 on `/readyz`."""
        server = self._servers[i]
        assert server.process is not None
        self._wait(
            f"kube-apiserver-{server.name}",
            server.process,
            lambda: self.api("GET", "/readyz", server=i)[0] == 200,
        )

    def _start_controller_manager(self) -> None:
        hub = self.network.hub if self.network is not None else None
        # In the hub, a hosts file with every control plane, so that it outlives the loss of any.
        hosts = None if hub is None else self.hosts()
        server = 0 if hub is None else self.url
        kubeconfig = self.kubeconfig("system:kube-controller-manager", server)
        keys = self._pki.service_accounts
        command = [
            "kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={keys.key}",
            f"--root-ca-file={self.ca_file}",
            f"--cluster-signing-cert-file={self.ca_file}",
            f"--cluster-signing-key-file={self._pki.ca_key_file}",
            f"--cluster-cidr={POD_CIDR}",
            "--allocate-node-cidrs=true",
            f"--secure-port={10257 if hub is not None else _free_port(['127.0.0.1'])}",
            "--bind-address=127.0.0.1",
        ]
        process = self._spawn("kube-controller-manager", hub, command, hosts)
        path = "/api/v1/namespaces/default/serviceaccounts/default"
        self._wait("kube-controller-manager", process, lambda: self.api("GET", path)[0] == 200)

    # ---------------------------------------------------------------------------- how a control plane is lost

    def kill_apiserver(self, i: int) -> None:
        """SIGKILL: the machine lives on and refuses connections."""
        process = self._process(i)
        process.kill()
        process.wait()

    def stop_apiserver(self, i: int, grace: float = 30.0) -> None:
        """As an upgrade: SIGTERM, on which it leaves the `kubernetes` endpoints, and after `grace` s SIGKILL.

        30 s are a static pod's grace period; kube-apiserver takes 60 s while anybody watches.
        """
        process = self._process(i)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        process.kill()
        process.wait()

    def pause_apiserver(self, i: int) -> None:
        """SIGSTOP: connections are taken by the kernel, and never answered."""
        self._process(i).send_signal(signal.SIGSTOP)

    def resume_apiserver(self, i: int) -> None:
        """SIGCONT: undo `pause_apiserver`."""
        self._process(i).send_signal(signal.SIGCONT)

    def cut(self, i: int) -> None:
        """Pull the cable of control plane i: what a power cut looks like to everybody else. Needs `netns`."""
        self._host(i).link_down()

    def mend(self, i: int) -> None:
        """Undo `cut`."""
        self._host(i).link_up()

    def apiserver_pid(self, i: int) -> int:
        """The process id of control plane i's API server."""
        return self._process(i).pid

    def _process(self, i: int) -> subprocess.Popen[Any]:
        process = self._servers[i].process
        assert process is not None
        return process

    def _host(self, i: int) -> Host:
        host = self._servers[i].host
        if host is None:
            raise ValueError("only a cluster with netns=True has cables")
        return host

    # ---------------------------------------------------------------------------------------------- its users

    @property
    def addresses(self) -> list[str]:
        """The control planes' addresses, where clients reach them."""
        return [server.address for server in self._servers]

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
            self._clients[user, group] = self._pki.issue(file_name, common_name=user, organization=group)
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
        timeout: float = 10.0,
    ) -> tuple[int, Any]:
        """One request to control plane `server`: its status, and the answer (parsed if it is JSON).

        `user` None sends no certificate. A PATCH is a JSON merge patch. Raises httpx.TransportError when the
        API server does not answer.
        """
        address = self._servers[server].address
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

        answer = self._inside(self.network.hub if self.network is not None else None, request)
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return answer.status_code, answer.json() if is_json else answer.text

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
        limit: float = _START_LIMIT,
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

    # ------------------------------------------------------------------------------------------------ workers

    def add_worker(self, name: str, address: str | None = None) -> Host:
        """A worker: a host on the same bridge (10.0.0.21, .22, ...) and its Node object. Needs `netns`."""
        if self.network is None:
            raise ValueError("only a cluster with netns=True has workers")
        number = 21 + len(self.workers)
        host = self.network.add_host(name, address or f"10.0.0.{number}", f"fd00::{number}")
        self.workers[name] = host
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": host.address},
                    {"type": "Hostname", "address": name},
                ]
            },
        }
        status, answer = self.api("POST", "/api/v1/nodes", node)
        if status != 201:
            raise HarnessError(f"no Node {name}: {answer}")
        return host

    def start_kube_proxy(
        self, worker: Host, hosts: str | None = None, *, server: int | str | None = None
    ) -> subprocess.Popen[Any]:
        """Run kube-proxy in nftables mode on a worker and wait until its rules are written once.

        `hosts` is its hosts file's text, and stays as it is: kubelet gives a host-network pod such a copy
        when it starts (kubernetes/kubernetes#85501). None leaves it the worker's own `/etc/hosts`, as on a
        node that runs kube-proxy as a service; `worker.private_etc()` gives the worker one of its own to
        write to. `server` is what its kubeconfig names, by default the name.
        """
        require_assets("kube-proxy")
        kubeconfig = self.kubeconfig("system:kube-proxy", self.url if server is None else server)
        command = [
            "kube-proxy",
            f"--kubeconfig={kubeconfig}",
            "--proxy-mode=nftables",
            f"--hostname-override={worker.name}",
            f"--cluster-cidr={POD_CIDR}",
            # The table's size is the machine's, not the namespace's: leave it alone.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
            "--nodeport-addresses=127.0.0.0/8",
        ]
        name = f"kube-proxy-{worker.name}"
        etc = worker.etc
        if hosts is not None:
            # Not over the worker's own file: the kernel takes away what is mounted over a file that is replaced.
            worker.etc = None
        try:
            process = self._spawn(name, worker, command, hosts)
        finally:
            worker.etc = etc

        def synced() -> bool:
            url = "http://127.0.0.1:10256/healthz"
            return worker.call(lambda: httpx.get(url, timeout=2.0, trust_env=False)).is_success

        self._wait(name, process, synced)
        return process

    # ------------------------------------------------------------------------------------------------- inside

    def logs(self, lines: int = _TAIL) -> str:
        """The end of every process's log, for a failure's report; the files are in `directory`."""
        return "\n".join(f"--- {name} ({path})\n{_tail(path, lines)}" for name, path in self._logs.items())

    def _spawn(
        self, name: str, host: Host | None, command: Sequence[str], hosts: str | None = None
    ) -> subprocess.Popen[Any]:
        """Start one of the binaries, its log in `directory`; `hosts` is a hosts file's text for it alone."""
        path = self._logs[name] = self.directory / f"{name}.log"
        argv = [str(assets_directory() / command[0]), *command[1:]]
        if hosts is not None:
            frozen = self.directory / f"{name}.hosts"
            frozen.write_text(hosts)
            argv = ["sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(frozen), *argv]
        if shutil.which("setpriv") is not None:
            argv = ["setpriv", "--pdeathsig", "KILL", *argv]  # should this process die without cleaning up
        with path.open("ab") as log:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            # A session of its own: Ctrl-C is for the tests, which then end it.
            options["start_new_session"] = True
            process = host.popen(argv, **options) if host is not None else subprocess.Popen(argv, **options)
        self._processes.append(process)
        return process

    def _wait(self, name: str, process: subprocess.Popen[Any], ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_LIMIT
        while True:
            with contextlib.suppress(httpx.TransportError):
                if ready():
                    return
            if process.poll() is not None:
                problem = f"ended with code {process.returncode}"
            elif time.monotonic() > deadline:
                problem = f"is not ready after {_START_LIMIT:g} s"
            else:
                time.sleep(0.1)
                continue
            raise HarnessError(f"{name} {problem}:\n{_tail(self._logs[name], _TAIL)}")

    @staticmethod
    def _inside(host: Host | None, function: Callable[[], httpx.Response]) -> httpx.Response:
        return host.call(function) if host is not None else function()


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _tail(path: Path, lines: int) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:  # a report of what failed must not fail itself
        return f"({error.strerror})"


def _free_port(addresses: Sequence[str]) -> int:
    """A TCP port free on all of these addresses, as of now."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server((addresses[0], 0)))
            port: int = first.getsockname()[1]
            try:
                for address in addresses[1:]:
                    stack.enter_context(socket.create_server((address, port)))
            except OSError:
                continue
            return port
