"""A cluster's life: its start, its workers, and the ways in which it loses a control plane."""

from __future__ import annotations

import base64
import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.control_plane import free_port
from tests.support.kube import commands
from tests.support.kube.access import HOST, Access, inside
from tests.support.kube.binaries import START_LIMIT, HarnessError, Processes, require_assets
from tests.support.kube.pki import Credentials, Pki
from tests.support.netns import Host, Network, require_root

if TYPE_CHECKING:
    from typing_extensions import Self

PORT = 6443

# What every serving certificate of kubeadm names, but for the node's own name and addresses.
SERVING_NAMES = (
    HOST,
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


@dataclass
class _Server:
    """One control plane: its address, its namespace (None: this machine's own), its API server's process."""

    name: str
    address: str
    host: Host | None
    serving: Credentials
    process: subprocess.Popen[Any] | None = None


class Cluster(Access):
    """`n` kube-apiservers over one etcd; a context manager, ready when entered.

    Control planes are counted from 0. With `netns`, control plane i is the host `cp{i+1}` of `network`,
    address 10.0.0.{11+i}, and etcd and the controller manager run in the hub, out of harm's way. Without, the
    addresses are 127.0.0.{11+i}, and the cluster is told 192.0.2.{11+i} (RFC 5737), as it takes no loopback
    endpoints.

    `ip_sans` puts each control plane's address into its certificate: off, since nodes must not depend on it.
    `anonymous_auth` is kube-apiserver's flag: without it `/readyz` answers 401 to those without a
    certificate. `controller_manager` starts one: service accounts, deletion of namespaces, Deployments, node
    health. `kube_proxy` only demands the binary at once; `start_kube_proxy` runs it. `names` are the serving
    certificates' DNS names, `apiserver_args` and `controller_manager_args` further flags. The
    API servers talk to the first of `etcd_members`; with several, `lose_quorum` takes the others away.
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
        controller_manager_args: Iterable[str] = (),
        etcd_members: int = 1,
    ) -> None:
        super().__init__()
        self.network = Network() if netns else None
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
        self._controller_manager_args = tuple(controller_manager_args)
        self._etcd_members = etcd_members
        self._etcds: list[subprocess.Popen[Any]] = []
        self._servers: list[_Server] = []
        self._hub = self.network.hub if self.network is not None else None

    # ------------------------------------------------------------------------------------------ start and end

    def __enter__(self) -> Self:
        require_assets(*self._needs)
        if self.network is not None:
            require_root()
        self.directory = self._given_directory or Path(tempfile.mkdtemp(prefix="apiha-kube-"))
        self._processes = Processes(self.directory)
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
        self._processes.kill()
        if self.network is not None:
            self.network.close()
        if self._given_directory is None:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self) -> None:
        self.pki = Pki(self.directory / "pki")
        self.ca_file = self.pki.ca_file
        if self.network is not None:
            self.network.__enter__()
            self.addresses = [f"10.0.0.{11 + i}" for i in range(self._n)]
            hosts: list[Host | None] = [
                self.network.add_host(f"cp{i + 1}", address, f"fd00::{11 + i}")
                for i, address in enumerate(self.addresses)
            ]
        else:
            self.addresses = [f"127.0.0.{11 + i}" for i in range(self._n)]
            hosts = [None] * self._n
            self.port = free_port(self.addresses)
        for i, (address, host) in enumerate(zip(self.addresses, hosts, strict=True)):
            name = f"cp{i + 1}"
            sans = (*self._names, *((address,) if self._ip_sans else ()))
            serving = self.pki.issue(name, *sans, common_name="kube-apiserver")
            self._servers.append(_Server(name, address, host, serving))
        self._start_etcd()
        for i in range(self._n):
            self.start_apiserver(i, wait=False)
        for i in range(self._n):
            self.wait_ready(i)
        if self._controller_manager:
            self._start_controller_manager()

    def _start_etcd(self) -> None:
        address = self._hub.address if self._hub is not None else "127.0.0.1"
        names = [f"etcd{i + 1}" for i in range(self._etcd_members)]
        ports = [
            (2379 + 10 * i, 2380 + 10 * i)
            if self._hub is not None
            else (free_port([address]), free_port([address]))
            for i in range(self._etcd_members)
        ]
        urls = [f"http://{address}:{client}" for client, _ in ports]
        peers = {name: f"http://{address}:{peer}" for name, (_, peer) in zip(names, ports, strict=True)}
        self.etcd_url = urls[0]
        for name, url in zip(names, urls, strict=True):
            command = commands.etcd(name, self.directory / name, url, peers)
            self._etcds.append(self._processes.start(name, self._hub, command))

        def healthy() -> bool:
            return inside(
                self._hub, lambda: httpx.get(f"{self.etcd_url}/health", timeout=2.0, trust_env=False)
            ).is_success

        self._processes.wait(names[0], self._etcds[0], healthy)

    def start_apiserver(self, i: int, *, wait: bool = True) -> None:
        """Start control plane i's API server; with `wait`, until it is ready."""
        server = self._servers[i]
        if self.apiserver_running(i):
            raise ValueError(f"the API server of {server.name} runs already")
        command = commands.apiserver(
            bind="::" if server.host is not None else server.address,
            port=self.port,
            advertised=server.address if server.host is not None else f"192.0.2.{11 + i}",
            etcd_url=self.etcd_url,
            ca_file=self.ca_file,
            serving=server.serving,
            service_accounts=self.pki.service_accounts,
            anonymous_auth=self._anonymous_auth,
            further=self._apiserver_args,
        )
        server.process = self._processes.start(f"kube-apiserver-{server.name}", server.host, command)
        if wait:
            self.wait_ready(i)

    def wait_ready(self, i: int) -> None:
        """Wait until control plane i answers 200 on `/readyz`."""
        server = self._servers[i]
        assert server.process is not None
        self._processes.wait(
            f"kube-apiserver-{server.name}",
            server.process,
            lambda: self.api("GET", "/readyz", server=i)[0] == 200,
        )

    def _start_controller_manager(self) -> None:
        # In the hub, a hosts file with every control plane, so that it outlives the loss of any.
        hosts = None if self._hub is None else self.hosts()
        command = commands.controller_manager(
            kubeconfig=self.kubeconfig(
                "system:kube-controller-manager", 0 if self._hub is None else self.url
            ),
            port=10257 if self._hub is not None else free_port(["127.0.0.1"]),
            ca_file=self.ca_file,
            ca_key_file=self.pki.ca_key_file,
            service_accounts=self.pki.service_accounts,
            further=self._controller_manager_args,
        )
        process = self._processes.start("kube-controller-manager", self._hub, command, hosts)
        path = "/api/v1/namespaces/default/serviceaccounts/default"
        self._processes.wait("kube-controller-manager", process, lambda: self.api("GET", path)[0] == 200)

    def start_scheduler(self) -> None:
        """Run kube-scheduler beside the controller manager; without one no Pod gets a node."""
        require_assets("kube-scheduler")
        hosts, server = (None, 0) if self._hub is None else (self.hosts(), self.url)
        port = 10259 if self._hub is not None else free_port(["127.0.0.1"])
        command = commands.scheduler(kubeconfig=self.kubeconfig("system:kube-scheduler", server), port=port)
        process = self._processes.start("kube-scheduler", self._hub, command, hosts)

        def healthy() -> bool:
            url = f"https://127.0.0.1:{port}/healthz"
            answer = inside(
                self._hub,
                lambda: httpx.get(url, timeout=2.0, trust_env=False, verify=False),
            )
            return answer.is_success

        self._processes.wait("kube-scheduler", process, healthy)

    def wait_renewed(self, i: int) -> None:
        """Wait until control plane i has just renewed its lease among the `kubernetes` endpoints: every 10 s, for 15 s.

        So it is among them for 15 s from now on, whatever happens to it.
        """
        name = f"/registry/masterleases/{self.addresses[i]}"
        key = {"key": base64.b64encode(name.encode()).decode()}

        def revision() -> str:
            url = f"{self.etcd_url}/v3/kv/range"
            answer = inside(
                self._hub, lambda: httpx.post(url, json=key, timeout=10.0, trust_env=False)
            ).json()
            return str(answer["kvs"][0]["mod_revision"]) if answer.get("kvs") else ""

        before, deadline = revision(), time.monotonic() + START_LIMIT
        while revision() in ("", before):
            if time.monotonic() > deadline:
                raise HarnessError(f"{self.addresses[i]} does not renew its lease")
            time.sleep(0.1)

    def logs(self, lines: int = 25) -> str:
        """The end of every process's log, for a failure's report; the files are in `directory`."""
        return self._processes.logs(lines)

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

    def lose_quorum(self) -> None:
        """SIGSTOP for every member of etcd but the first, which goes on answering that it has no leader."""
        for process in self._etcds[1:]:
            process.send_signal(signal.SIGSTOP)

    def regain_quorum(self) -> None:
        """Undo `lose_quorum`."""
        for process in self._etcds[1:]:
            process.send_signal(signal.SIGCONT)

    def apiserver_pid(self, i: int) -> int:
        """The process id of control plane i's API server."""
        return self._process(i).pid

    def apiserver_running(self, i: int) -> bool:
        """Whether control plane i's API server has been started and has not ended."""
        process = self._servers[i].process
        return process is not None and process.poll() is None

    def _process(self, i: int) -> subprocess.Popen[Any]:
        process = self._servers[i].process
        assert process is not None
        return process

    def _host(self, i: int) -> Host:
        host = self._servers[i].host
        if host is None:
            raise ValueError("only a cluster with netns=True has cables")
        return host

    # ------------------------------------------------------------------------------------------------ workers

    def add_worker(self, name: str, address: str | None = None) -> Host:
        """A worker: a host on the same bridge (10.0.0.21, .22, ...) and its Node object. Needs `netns`."""
        number = 21 + len(self.workers)
        host = self.lan.add_host(name, address or f"10.0.0.{number}", f"fd00::{number}")
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
        self,
        worker: Host,
        hosts: str | None = None,
        *,
        server: int | str | None = None,
        mode: str = "nftables",
    ) -> subprocess.Popen[Any]:
        """Run kube-proxy in a mode of its on a worker and wait until its rules are written once.

        `hosts` is its hosts file's text, and stays as it is: kubelet gives a host-network pod such a copy
        when it starts (kubernetes/kubernetes#85501). None leaves it the worker's own `/etc/hosts`, as on a
        node that runs kube-proxy as a service; `worker.private_etc()` gives the worker one of its own to
        write to. `server` is what its kubeconfig names, by default the name.
        """
        require_assets("kube-proxy")
        kubeconfig = self.kubeconfig("system:kube-proxy", self.url if server is None else server)
        command = commands.kube_proxy(kubeconfig=kubeconfig, node=worker.name, mode=mode)
        name = f"kube-proxy-{worker.name}"
        etc = worker.etc
        if hosts is not None:
            # Not over the worker's own file: the kernel takes away what is mounted over a file that is replaced.
            worker.etc = None
        try:
            process = self._processes.start(name, worker, command, hosts)
        finally:
            worker.etc = etc

        def synced() -> bool:
            url = "http://127.0.0.1:10256/healthz"
            return worker.call(lambda: httpx.get(url, timeout=2.0, trust_env=False)).is_success

        self._processes.wait(name, process, synced)
        return process
