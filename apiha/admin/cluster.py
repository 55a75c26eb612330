"""The cluster as an administrator sees it: what `apiha.admin` reads and writes there, through kubectl."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

import yaml

from apiha.admin import installer
from apiha.admin.learned import SAYS_NOTHING, Learned, asked_of, log_path
from apiha.admin.objects import (
    Lease,
    Node,
    Pod,
    PodEvent,
    read_daemon_set,
    read_event,
    read_lease,
    read_node,
    read_pod,
)
from apiha.admin.planes import KubeProxy, Plane, Planes, connections_of, planes_of
from apiha.config import OTHER_YAML_ERRORS
from apiha.documents import at, mappings
from apiha.drained import ANNOTATION, Drained, of_service
from apiha.errors import ApihaError, ConfigError, NoControlPlane, NotPermitted
from apiha.known import Known, last_of
from apiha.kubectl import Kubectl, KubectlError, explained
from apiha.names import SERVICE, SERVICE_LABEL
from apiha.slices import ControlPlane, control_planes, slices_of_list

PROXY_LABEL = "k8s-app=kube-proxy"  # as kubeadm, kops and most others name it
_MIN_SYNC = (
    1.0  # s: kube-proxy's default for a minSyncPeriod of 0 (pkg/proxy/apis/config/v1alpha1/defaults.go)
)
_DIRECT_TIMEOUT = 3.0  # s for one API server's /metrics
_LOG_TIMEOUT, _LOGS_TIMEOUT = 3.0, 20.0  # s for one installer's log, and for all of them
_NO_LOGS = (
    'cannot get resource "pods/log"'  # the API server's own words; a kubelet's refusal is of that node alone
)
_READERS = 8  # logs that are read at the same time
_PAGE = 1000  # objects in one answer: 15,000 Nodes with their images are more than one request should carry
_TOO_LATE = ("Expired", "Gone")  # 410: etcd no longer has the state that the first page was of
_GO_DURATION = re.compile(r"([0-9.]+)(h|ms|us|ns|m|s)")  # time.Duration's text

T = TypeVar("T")


class Changed(Exception):
    """The Service was changed by somebody else between reading and writing."""


class Cluster:
    """What is read and written. Each method raises NoControlPlane where no API server answers, NotPermitted where the
    kubeconfig may not, and ConfigError for a bad kubeconfig.
    """

    def __init__(self, kubectl: Kubectl, namespace: str, host: str, port: int) -> None:
        """`namespace` is the Service's, `host` the name that the API servers' certificates carry."""
        self.namespace = namespace
        self._kubectl = kubectl
        self._host = host
        self._port = port

    def service(self) -> dict[str, Any]:
        """The Service `apiserver`; raises ConfigError if there is none."""
        found = self._get(f"/api/v1/namespaces/{self.namespace}/services/{SERVICE}")
        if found is None:
            raise ConfigError(
                f"the Service {self.namespace}/{SERVICE} does not exist: apply `apiha manifests` first, or give its "
                "namespace with --namespace"
            )
        return dict(found)

    def planes(self, service: dict[str, Any]) -> Planes:
        """The control planes, as the cluster tells of them right now."""
        found = planes_of(
            self._slices("default", "kubernetes"),
            self._slices(self.namespace, SERVICE),
            of_service(service),
            self._port,
        )
        return replace(found, namespace=self.namespace)

    def write_drained(self, service: dict[str, Any], drained: Drained) -> None:
        """Write the annotation, if the Service is still the one that was read; raises Changed if it is not.

        The API server compares the resourceVersion: of two who write at once, one is refused.
        """
        metadata = {
            "resourceVersion": service["metadata"]["resourceVersion"],
            "annotations": {ANNOTATION: drained.text()},
        }
        try:
            self._kubectl.merge("service", SERVICE, self.namespace, {"metadata": metadata})
        except KubectlError as error:
            if error.reason == "Conflict":
                raise Changed from None
            raise explained(error, f"the Service {self.namespace}/{SERVICE} cannot be changed") from None
        except NoControlPlane as error:
            raise NoControlPlane(
                f"{error}; the Service may have been changed all the same: `apiha control-plane list` says"
            ) from None

    def with_connections(self, planes: Iterable[Plane]) -> tuple[Plane, ...]:
        """The same, with what each API server says of itself when asked at its own address; all at once."""

        def ask(plane: Plane) -> Plane:
            try:
                text = self._kubectl.text(
                    "/metrics",
                    server=f"https://{plane.endpoint}",
                    server_name=self._host,
                    timeout=_DIRECT_TIMEOUT,
                )
            except (KubectlError, ApihaError) as error:
                return replace(plane, why_unknown=str(error))
            return replace(plane, connections=connections_of(text))

        asked = tuple(planes)
        with ThreadPoolExecutor(max(1, min(8, len(asked)))) as pool:
            return tuple(pool.map(ask, asked))

    def kube_proxies(self) -> tuple[KubeProxy, ...]:
        """The kube-proxy of each node, as far as it runs as a Pod with the usual label."""
        return tuple(KubeProxy(pod.node, pod.ready, pod.version) for pod in self.pods(PROXY_LABEL))

    def min_sync_period(self) -> float:
        """Seconds for which kube-proxy collects changes before it writes its rules: the longest of its modes by the
        ConfigMap `kube-system/kube-proxy` (kubeadm's), else its default.
        """
        found = self._get("/api/v1/namespaces/kube-system/configmaps/kube-proxy")
        data = (found or {}).get("data") or {}
        return max([_MIN_SYNC, *(min_sync_of(text) for text in data.values() if isinstance(text, str))])

    def nodes(self) -> tuple[Node, ...]:
        """All Nodes."""
        return self._all("/api/v1/nodes", read_node)

    def leases(self) -> tuple[Lease, ...]:
        """The Leases that kubelets renew."""
        return self._all("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", read_lease)

    def pods(self, label: str) -> tuple[Pod, ...]:
        """The Pods with this label that have a node, in any namespace."""
        return self._all(f"/api/v1/pods?labelSelector={quote(label, safe='')}", read_pod)

    def installers(self, silent: Collection[str]) -> installer.Installers:
        """What the installer's Pods say, but for those on `silent` nodes, whose kubelet does not report.

        Events are read only if a Pod is not ready, and where the kubeconfig may read them.
        """
        label = quote(installer.LABEL, safe="")
        sets = self._all(f"/apis/apps/v1/daemonsets?labelSelector={label}", read_daemon_set)
        pods = installer.by_node(self.pods(installer.LABEL))
        asking = {pod.namespace for pod in pods.values() if not pod.ready and pod.node not in silent}
        events = [event for namespace in sorted(asking) for event in self._warnings(namespace)]
        return installer.Installers(sets, pods, installer.last_words(events))

    def learned(self) -> Learned:
        """What the nodes know of the control planes, by the logs of their installers' Pods.

        Raises nothing: what cannot be read is part of the answer. Takes `_LOGS_TIMEOUT` s at most once the Pods are
        listed; whose log was not asked for by then is left out.
        """
        try:
            pods, found = asked_of(self.pods(installer.LABEL))
        except ApihaError as error:
            return Learned(problem=str(error))
        deadline = time.monotonic() + _LOGS_TIMEOUT
        refusals: list[str] = []  # who may not read one log may not read the next
        stopped = threading.Event()

        def ask(pod: Pod) -> Known | str | None:
            left = deadline - time.monotonic()
            if refusals:
                return refusals[0]
            if left <= 0 or stopped.is_set():
                return None
            try:
                log = self._kubectl.text(log_path(pod), timeout=min(_LOG_TIMEOUT, left))
            except (KubectlError, ApihaError) as error:
                if _NO_LOGS in str(error):
                    refusals.append(str(error))
                return str(error)
            return last_of(log) or SAYS_NOTHING

        pool = ThreadPoolExecutor(_READERS)
        try:
            said = list(zip(pods, pool.map(ask, pods), strict=True))
        finally:  # ^C waits for none of them
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
        return replace(
            found,
            answers=tuple(each for _, each in said if isinstance(each, Known)),
            unread={pod.node: each for pod, each in said if isinstance(each, str)},
        )

    def _warnings(self, namespace: str) -> tuple[PodEvent, ...]:
        """The Events of a namespace about Pods in trouble; none where this kubeconfig may not read them."""
        selector = quote("involvedObject.kind=Pod,type=Warning", safe="")
        try:
            return self._all(f"/api/v1/namespaces/{namespace}/events?fieldSelector={selector}", read_event)
        except NotPermitted:
            return ()

    def _slices(self, namespace: str, service: str) -> tuple[ControlPlane, ...]:
        selector = quote(f"{SERVICE_LABEL}={service}", safe="")
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector={selector}"
        return control_planes(slices_of_list(self._get(path)))

    def _all(self, path: str, read: Callable[[Mapping[str, Any]], T | None]) -> tuple[T, ...]:
        """What `read` makes of all objects of a list, but for its None; read page by page.

        If the cluster changes so fast that a page comes too late, once more from the beginning; then in one piece.
        """
        for page in (_PAGE, _PAGE, None):
            try:
                return tuple(self._pages(path, read, page))
            except KubectlError as error:
                if error.reason not in _TOO_LATE or page is None:
                    raise explained(error, f"{path.partition('?')[0]} cannot be read") from None
        raise AssertionError("the last one returns or raises")

    def _pages(
        self, path: str, read: Callable[[Mapping[str, Any]], T | None], page: int | None
    ) -> Iterator[T]:
        """The same, once; raises KubectlError."""
        token = ""
        while True:
            more = [f"limit={page}"] if page else []
            more += [f"continue={quote(token, safe='')}"] if token else []
            separator = "&" if "?" in path else "?"
            document = self._kubectl.get(f"{path}{separator}{'&'.join(more)}" if more else path)
            for item in mappings(at(document, "items")):
                if (found := read(item)) is not None:
                    yield found
            token = str(at(document, "metadata", "continue") or "")
            if not token:
                return

    def _get(self, path: str) -> Any:
        """The document; None if the API server has none there."""
        try:
            return self._kubectl.get(path)
        except KubectlError as error:
            if error.reason == "NotFound":
                return None
            raise explained(error, f"{path.partition('?')[0]} cannot be read") from None


def min_sync_of(text: str) -> float:
    """The longest minSyncPeriod (seconds) in a KubeProxyConfiguration; 0 if there is none that can be read."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, *OTHER_YAML_ERRORS):
        return 0.0
    if not isinstance(document, dict) or document.get("kind") != "KubeProxyConfiguration":
        return 0.0
    modes = (document.get(mode) for mode in ("iptables", "ipvs", "nftables"))
    return max(
        (_go_seconds(mode.get("minSyncPeriod")) for mode in modes if isinstance(mode, dict)), default=0.0
    )


def _go_seconds(value: object) -> float:
    """Seconds of a Go duration such as `1m30s` or `0s`; 0 for what cannot be read."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "ns": 1e-9}
    if not isinstance(value, str):
        return 0.0
    found = _GO_DURATION.findall(value)
    return sum(float(number) * units[unit] for number, unit in found)
