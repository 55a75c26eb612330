"""Runs `apiha updater` as a process against a real API server, and looks at what it does from outside."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from tests.support.control_plane import Authority
from tests.support.kube import Cluster
from tests.support.netns import Host

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
SLICES = "/apis/discovery.k8s.io/v1/namespaces"
LEASES = "/apis/coordination.k8s.io/v1/namespaces"
EVENTS = "/apis/events.k8s.io/v1/namespaces"
VIP = "10.96.0.100"


LIMIT = 60.0  # seconds: a slow machine's, not what anything takes
# For tests in which no control plane may be taken for dead: a probe may take 4 s, where 0.8 s are the default.
PATIENT = ("--health-interval", "5s")


def wait_for(what: str, condition: Callable[[], T], limit: float = LIMIT, pause: float = 0.05) -> T:
    """The first true value of `condition`; fails, naming `what`, when `limit` seconds have gone by."""
    deadline = time.monotonic() + limit
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {limit:g} s: {what}"
        time.sleep(pause)


def manifests() -> str:
    """What `apiha manifests` prints for the VIP."""
    command = [
        sys.executable,
        "-m",
        "apiha",
        "manifests",
        "--vip",
        VIP,
        "--image",
        "registry.example/apiha:1",
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def kubeconfig(directory: Path, authority: Authority, **user: str) -> Path:
    """A kubeconfig for a cluster that nobody asks."""
    path = directory / "kubeconfig"
    cluster = {"server": "https://192.0.2.9:6443", "certificate-authority": str(authority.ca_file)}
    context = {"cluster": "c", "user": "u"}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "x",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "x", "context": context}],
            }
        )
    )
    return path


class Api:
    """A client that keeps its connections, for tests that make many requests; as the cluster's admin."""

    def __init__(self, cluster: Cluster, server: int = 0) -> None:
        context = ssl.create_default_context(cafile=str(cluster.ca_file))
        credentials = cluster.client()
        context.load_cert_chain(credentials.cert, credentials.key)
        self._host = cluster.host
        self._inside = cluster.network.hub if cluster.network is not None else None
        self._client = httpx.Client(
            verify=context, base_url=f"https://{cluster.endpoints[server]}", timeout=30.0, trust_env=False
        )

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request: its status and the parsed answer; a PATCH is a JSON merge patch."""

        def send() -> httpx.Response:
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            return self._client.request(
                method,
                path,
                content=None if body is None else json.dumps(body),
                headers={"Content-Type": kind},
                extensions={"sni_hostname": self._host},
            )

        answer = self._inside.call(send) if self._inside is not None else send()
        return answer.status_code, answer.json()

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        """The same, for a request that must succeed; returns the answer."""
        status, answer = self(method, path, body)
        assert status in (200, 201), f"{method} {path}: {status} {answer}"
        return answer

    def stream(self, path: str) -> Iterator[dict[str, Any]]:
        """The events of a watch, until its `timeoutSeconds`."""
        extensions = {"sni_hostname": self._host}
        with self._client.stream("GET", path, extensions=extensions, timeout=60.0) as answer:
            for line in answer.iter_lines():
                yield json.loads(line)

    def close(self) -> None:
        """End its connections."""
        self._client.close()


class Space:
    """A namespace of its own with the Service, and the `kubernetes` slices to play with.

    The cluster must run with `--endpoint-reconciler-type=none`, or the API servers put their slice right.
    """

    def __init__(self, cluster: Cluster, api: Api) -> None:
        self.cluster = cluster
        self.api = api
        self.namespace = f"test-{secrets.token_hex(4)}"
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        api.ok("POST", "/api/v1/namespaces", namespace)
        for item in self.objects(SLICES, "default", "kubernetes.io/service-name%3Dkubernetes"):
            api.ok("DELETE", f"{SLICES}/default/endpointslices/{item['metadata']['name']}")
        self.set_source(["192.0.2.1", "192.0.2.2", "192.0.2.3"])

    def objects(
        self, group: str, namespace: str, selector: str = "", kind: str = "endpointslices"
    ) -> list[Any]:
        """The objects of a kind."""
        path = f"{group}/{namespace}/{kind}" + (f"?labelSelector={selector}" if selector else "")
        return list(self.api.ok("GET", path)["items"])

    def make_service(self, vip: str | None = None) -> Any:
        """The Service; a free clusterIP without `vip`."""
        spec: dict[str, Any] = {"ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]}
        if vip is not None:
            spec["clusterIP"] = vip
        body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "apiserver"}, "spec": spec}
        return self.api.ok("POST", f"/api/v1/namespaces/{self.namespace}/services", body)

    def delete_service(self) -> None:
        """As if by mistake."""
        self.api.ok("DELETE", f"/api/v1/namespaces/{self.namespace}/services/apiserver")

    def set_source(
        self, addresses: Sequence[str], *, name: str = "kubernetes", port: int = 6443, family: str = "IPv4"
    ) -> None:
        """Write one of the `kubernetes` slices, as the API servers would."""
        path = f"{SLICES}/default/endpointslices"
        body = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family,
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }
        if self.api("PUT", f"{path}/{name}", body)[0] == 404:
            self.api.ok("POST", path, body)

    def mirror(self, name: str = "apiserver") -> Any:
        """The mirrored slice, None if there is none."""
        status, answer = self.api("GET", f"{SLICES}/{self.namespace}/endpointslices/{name}")
        return answer if status == 200 else None

    def mirrored(self, name: str = "apiserver") -> list[str]:
        """The addresses of the mirrored slice, in its order."""
        return addresses_of(self.mirror(name))

    def lease(self) -> Any:
        """The Lease's spec."""
        return self.api.ok("GET", f"{LEASES}/{self.namespace}/leases/apiserver-updater")["spec"]

    def events(self) -> list[Any]:
        """The Events on the Service."""
        return self.objects(EVENTS, self.namespace, kind="events")

    def wait_mirrored(self, addresses: Sequence[str], name: str = "apiserver", limit: float = LIMIT) -> None:
        """Until the slice has exactly these addresses."""
        wait_for(f"{name} is {list(addresses)}", lambda: self.mirrored(name) == list(addresses), limit)


def addresses_of(item: Any) -> list[str]:
    """Every address of a slice, in its order."""
    return [address for entry in (item or {}).get("endpoints") or () for address in entry["addresses"]]


def ready_of(item: Any) -> list[str]:
    """The ready ones."""
    entries = (item or {}).get("endpoints") or ()
    return [address for entry in entries if entry["conditions"]["ready"] for address in entry["addresses"]]


class Updater:
    """`apiha updater` in a process of its own; a context manager that ends it with SIGKILL at the latest."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        *flags: str,
        kubeconfig: Path | None = None,
        host: Host | None = None,
        name: str = "updater",
        wait: bool = True,
    ) -> None:
        """`host` runs it inside a network namespace; `wait` until it serves its pages."""
        self.identity = f"{name}-{secrets.token_hex(3)}"
        self.log_path = cluster.directory / f"{self.identity}.log"
        self._host = host
        self.command = [
            sys.executable,
            *("-m", "apiha", "--log-format", "json", "updater"),
            *("--kubeconfig", str(kubeconfig or cluster.kubeconfig())),
            *("--namespace", namespace, "--identity", self.identity, "--listen", "127.0.0.1:0"),
            *flags,
        ]
        self.started = time.monotonic()
        with self.log_path.open("wb") as log:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "cwd": ROOT}
            # With the fault handler SIGABRT prints where each thread is: see `terminate`.
            options["env"] = {**os.environ, "APIHA_DEBUG": "1", "PYTHONFAULTHANDLER": "1"}
            self.process: subprocess.Popen[Any] = (
                host.popen(self.command, **options) if host else subprocess.Popen(self.command, **options)
            )
        self._port: int | None = None
        if wait:
            wait_for("the updater runs", lambda: self.port or self.process.poll() is not None)
            assert self.process.poll() is None, self.log_path.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()  # also if it is stopped
        self.process.wait()
        if error is not None:
            print(f"--- {self.identity}\n{self.log_path.read_text()}", file=sys.stderr)

    # --------------------------------------------------------------------------------- what it says

    def log(self) -> list[dict[str, Any]]:
        """Its log so far, parsed; a line that is no JSON (a traceback) is a failure."""
        return [
            json.loads(line)
            for line in self.log_path.read_text().splitlines(keepends=True)
            if line[-1:] == "\n"
        ]

    def said(self, text: str) -> list[dict[str, Any]]:
        """The lines whose message holds the text."""
        return [line for line in self.log() if text in line["message"]]

    def wait_said(self, text: str, times: int = 1, limit: float = LIMIT) -> dict[str, Any]:
        """The line, once it is there this often."""
        wait_for(f"{text!r} in the log", lambda: len(self.said(text)) >= times, limit)
        return self.said(text)[-1]

    @property
    def port(self) -> int | None:
        """Where it serves its pages, once it does."""
        if self._port is None and self.log_path.exists():
            self._port = next((line["port"] for line in self.log() if "port" in line), None)
        return self._port

    def get(self, path: str) -> httpx.Response:
        """One of its pages."""

        def ask() -> httpx.Response:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=30.0, trust_env=False)

        return self._host.call(ask) if self._host is not None else ask()

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Every sample: (name, sorted labels) to value, read by Prometheus' own parser."""
        from prometheus_client.parser import text_string_to_metric_families

        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for metric in text_string_to_metric_families(self.get("/metrics").text)
            for sample in metric.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0 if there are none."""
        wanted = set(labels.items())
        found = self.metrics().items()
        return sum(value for (n, ls), value in found if n == f"apiha_updater_{name}" and wanted <= set(ls))

    @property
    def leads(self) -> bool:
        """Whether it believes to lead."""
        return self.metric("leader") == 1.0

    def wait_leading(self, limit: float = LIMIT) -> None:
        """Until it leads."""
        wait_for(f"{self.identity} leads", lambda: self.leads, limit)

    @property
    def resident(self) -> int:
        """Its resident memory in bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS"))

    # --------------------------------------------------------------------------- what is done to it

    def terminate(self, limit: float = 60.0) -> int:
        """SIGTERM, and wait for its end; returns the exit code. Where it hangs instead stands in its log."""
        self.process.terminate()
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)
