"""The official Kubernetes client behind a narrow door: plain dicts in and out, errors as one type, failover
inside.

Everything that the generated client leaves open is closed here: each request has a time limit, no request is
repeated behind our back (urllib3's retries would repeat a write after the lease), dead connections are
noticed by TCP keepalive, and each request goes to an API server that answers.

# Which API server

The updater starts with the one that its configuration names: in a Pod the Service `kubernetes`
(KUBERNETES_SERVICE_HOST), never the Service that it feeds. That Service keeps a dead control plane for 15 to
25 s, and a connection through it may lead to the dead one: then the news of its death would wait for a time
limit. So, as soon as it knows the control planes, the updater talks to one of them directly, proven by the
same probe as everywhere, and changes to another when that one fails. Where none of them can be reached
directly (a network policy, a proxy) it stays with its configuration.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import queue
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import urllib3
from kubernetes import client
from kubernetes import config as _config
from kubernetes import watch as _watch
from kubernetes.client.exceptions import ApiException

from apiha import __version__
from apiha.clock import Clock
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError
from apiha.probe import Prober, ProbeResult, trial_order

Object = dict[str, Any]
# The generated parts of the client are typed, the parts written by hand are not.
config: Any = _config
watch: Any = _watch

FIELD_MANAGER = "apiserver-updater"
CONNECT_TIMEOUT = 1.0  # s
READ_TIMEOUT = 5.0  # s: half the default renew deadline, as client-go's leader election has it
_RETURN_FAST = 2.0  # s between two looks for a better API server after the same failure

# A peer that lost power is noticed after KEEPIDLE + KEEPCNT x KEEPINTVL = 6 s on an idle connection, and
# after TCP_USER_TIMEOUT (ms) on one with unacknowledged data; see tcp(7).
_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 6000),
]


class ApiError(Exception):
    """A request failed. `status` is the HTTP status, 0 if there was no answer; the message is the API
    server's, one line.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @classmethod
    def of(cls, error: ApiException) -> ApiError:
        """What the client's exception says, in one line."""
        message = str(error.reason or "no answer")
        with contextlib.suppress(ValueError, TypeError, KeyError):
            message = json.loads(error.body or "")["message"]
        return cls(int(error.status or 0), " ".join(str(message).split())[:300])


def load_configuration(kubeconfig: Path | None) -> client.Configuration:
    """The cluster to talk to and who we are: a kubeconfig's current context, else the Pod's service account.

    Raises ConfigError.
    """
    configuration = client.Configuration()
    try:
        if kubeconfig is not None:
            config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
        else:
            config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException as error:
        where = f"{kubeconfig}" if kubeconfig is not None else "not in a cluster, and no --kubeconfig"
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from None
    except OSError as error:
        words = (error.strerror or "it cannot be read").lower()
        raise ConfigError(f"{kubeconfig or 'the service account'}: {words}") from None
    except Exception as error:  # the YAML parser's, or what the library trips over
        mark = getattr(error, "problem_mark", None)
        words = f"no YAML (line {mark.line + 1})" if mark is not None else "its contents are something else"
        raise ConfigError(f"{kubeconfig or 'the service account'}: not a kubeconfig: {words}") from None
    configuration.retries = cast(Any, False)
    configuration.socket_options = _SOCKET_OPTIONS
    return configuration


def authority(configuration: client.Configuration) -> str | None:
    """The cluster's CA bundle (PEM), or None where the kubeconfig switches verification off; raises
    ConfigError.
    """
    if not configuration.verify_ssl:
        return None
    data = getattr(configuration, "ca_cert_data", None)
    if data:
        return data.decode("ascii") if isinstance(data, bytes) else str(data)
    path = configuration.ssl_ca_cert
    if not path:
        raise ConfigError(
            "the kubeconfig names no certificate-authority: control planes could not prove themselves"
        )
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the cluster's CA cannot be read: {error}") from None


def client_certificate(configuration: client.Configuration) -> tuple[Path | None, Path | None]:
    """The files of the client certificate and its key, if that is who we are."""
    certificate, key = configuration.cert_file, configuration.key_file
    return (Path(certificate) if certificate else None), (Path(key) if key else None)


def bearer(configuration: client.Configuration) -> dict[str, str]:
    """The header that carries our token, if that is who we are.

    The token is the one of the last request: to fetch a new one may take longer than a probe may, and the client
    does so with each of its own.
    """
    keys = configuration.api_key
    token = keys.get("BearerToken") or keys.get("authorization")
    return {"Authorization": str(token)} if token else {}


@dataclass(frozen=True)
class Server:
    """One way to the API: the configured one (`endpoint` None) or a control plane itself."""

    endpoint: Endpoint | None
    base: str
    rest: Any

    def __str__(self) -> str:
        return str(self.endpoint) if self.endpoint is not None else self.base


class Servers:
    """Chooses the API server to talk to. Thread-safe."""

    def __init__(
        self,
        configuration: client.Configuration,
        prober: Prober,
        identity: str,
        clock: Clock,
        *,
        on_switch: Callable[[Server], None] = lambda _: None,
    ) -> None:
        self._configuration = configuration
        self._prober = prober
        self._identity = identity
        self._clock = clock
        self._on_switch = on_switch
        self._lock = threading.Lock()
        self._choosing = threading.Lock()
        self._planes: tuple[Endpoint, ...] = ()
        self._direct: dict[Endpoint, Server] = {}
        self._configured = Server(
            None, configuration.host.rstrip("/"), client.rest.RESTClientObject(configuration)
        )
        self._current = self._configured
        self._last_choice: tuple[Server, float] | None = None

    @property
    def current(self) -> Server:
        """Where requests go now."""
        return self._current

    def know(self, planes: Collection[Endpoint]) -> None:
        """The control planes there are; a direct way to one that is gone is given up."""
        with self._lock:
            self._planes = trial_order(self._identity, planes)
            for gone in self._direct.keys() - set(planes):
                del self._direct[gone]
        endpoint = self._current.endpoint
        if endpoint is not None and endpoint not in planes:
            self.leave(self._current)

    def settle(self) -> None:
        """Look for a control plane to talk to directly if there is none yet, or if it no longer proves
        itself.

        One that answers everything with HTTP 500 fails no request for want of an answer: only a probe tells.
        """
        current = self._current
        if current.endpoint is None:
            if self._configuration.proxy is None:
                self.leave(current)
        elif not self._prober.probe(current.endpoint).health.usable:
            self.leave(current)

    def leave_endpoint(self, endpoint: Endpoint) -> None:
        """A probe of this control plane failed: if we talk to it, talk to another."""
        current = self._current
        if current.endpoint == endpoint:
            self.leave(current)

    def leave(self, server: Server) -> None:
        """`server` failed us: change to a control plane that proves itself now, else to the configured one."""
        with self._choosing:
            now = self._clock.monotonic()
            if server is not self._current:
                return  # another thread has done it
            if (
                self._last_choice is not None
                and self._last_choice[0] is server
                and now < self._last_choice[1] + _RETURN_FAST
            ):
                return
            planes = (
                []
                if self._configuration.proxy
                else [plane for plane in self._planes if plane != server.endpoint]
            )
            found = self._first_usable(planes)
            chosen = self._server(found) if found is not None else self._configured
            self._last_choice = (chosen, self._clock.monotonic())
            if chosen is not server:
                self._current = chosen
        if chosen is not server:
            self._on_switch(chosen)

    def _first_usable(self, planes: Collection[Endpoint]) -> Endpoint | None:
        """The first to prove itself; all are asked at once, each for the prober's time limit at most."""
        results: queue.SimpleQueue[ProbeResult] = queue.SimpleQueue()
        for plane in planes:
            threading.Thread(target=lambda p=plane: results.put(self._prober.probe(p)), daemon=True).start()
        for _ in planes:
            result = results.get()
            if result.health.usable:
                return result.endpoint
        return None

    def _server(self, endpoint: Endpoint) -> Server:
        with self._lock:
            if endpoint not in self._direct:
                configuration = copy.copy(self._configuration)
                configuration.host = f"https://{endpoint}"
                configuration.tls_server_name = self._prober.host
                rest = client.rest.RESTClientObject(configuration)
                self._direct[endpoint] = Server(endpoint, configuration.host, rest)
            return self._direct[endpoint]


class FailoverApiClient(client.ApiClient):
    """The generated client, but each request goes to the API server of the moment, and has a time limit."""

    def __init__(
        self,
        configuration: client.Configuration,
        servers: Servers,
        on_contact: Callable[[Server, str | None], None],
    ) -> None:
        """`on_contact` hears after each request which server answered (None) or why it did not (one line)."""
        super().__init__(configuration)
        self.user_agent = f"apiha-updater/{__version__}"
        self._servers = servers
        self._on_contact = on_contact

    def call_api(  # type: ignore[no-untyped-def]
        self, method, url, header_params=None, body=None, post_params=None, _request_timeout=None
    ):
        """One request; raises ApiException, with status 0 if there was no answer."""
        server = self._servers.current
        path = url.removeprefix(self.configuration.host.rstrip("/"))
        try:
            answer = server.rest.request(
                method,
                server.base + path,
                headers=header_params,
                body=body,
                post_params=post_params,
                _request_timeout=_request_timeout or (CONNECT_TIMEOUT, READ_TIMEOUT),
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unanswered(server, error) from None
        except ApiException as error:  # the client's form of a TLS error
            raise self._unanswered(server, error) from None
        self._on_contact(server, None)
        return answer

    def _unanswered(self, server: Server, error: Exception) -> ApiException:
        words = explain(error)
        self._on_contact(server, words)
        self._servers.leave(server)
        return ApiException(status=0, reason=f"{server} does not answer: {words}")


def explain(error: BaseException) -> str:
    """Why there was no answer, in a few words."""
    text = str(error).lower()
    for mark, words in (
        ("refused", "connection refused"),
        ("timed out", "no answer in time"),
        ("timeout", "no answer in time"),
        ("certificate", "its certificate does not prove that it belongs to the cluster"),
        ("no route", "no route to it"),
        ("unreachable", "no route to it"),
        ("reset", "the connection was cut"),
        ("aborted", "the connection was cut"),
        ("closed", "the connection was cut"),
        ("resolve", "its name does not resolve"),
    ):
        if mark in text:
            return words
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


class Kube:
    """The requests that the updater makes; each raises ApiError and nothing else."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self.api_client = api_client
        self._discovery = client.DiscoveryV1Api(api_client)
        self._coordination = client.CoordinationV1Api(api_client)
        self._events = client.EventsV1Api(api_client)
        self._watches_lock = threading.Lock()
        self._watches: set[Any] = set()

    def slices(self, namespace: str, service: str) -> Collectible:
        """The EndpointSlices of a Service."""
        selector = f"kubernetes.io/service-name={service}"
        return Collectible(
            self, self._discovery.list_namespaced_endpoint_slice, namespace, {"label_selector": selector}
        )

    def services(self, namespace: str, name: str) -> Collectible:
        """One Service, or none."""
        selector = f"metadata.name={name}"
        return Collectible(self, self._list_services, namespace, {"field_selector": selector})

    def _list_services(
        self, namespace: str, *, _preload_content: bool, _request_timeout: Any = None, **query: Any
    ) -> Any:
        """What `CoreV1Api.list_namespaced_service` does, without the 21 MiB that CoreV1Api's models take."""
        assert not _preload_content
        parts = self.api_client.param_serialize(
            "GET",
            f"/api/v1/namespaces/{namespace}/services",
            query_params=[
                (_camel(name), str(value).lower() if isinstance(value, bool) else str(value))
                for name, value in query.items()
            ],
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        return self.api_client.call_api(*parts, _request_timeout=_request_timeout).response

    def leases(self, namespace: str, name: str) -> Collectible:
        """One Lease, or none."""
        selector = f"metadata.name={name}"
        return Collectible(
            self, self._coordination.list_namespaced_lease, namespace, {"field_selector": selector}
        )

    def read_slice(self, namespace: str, name: str) -> Object:
        """One EndpointSlice."""
        return _call(self._discovery.read_namespaced_endpoint_slice, name, namespace)

    def create_slice(self, body: Object, timeout: float) -> Object:
        """POST: fails with 409 if there is one of that name."""
        namespace = body["metadata"]["namespace"]
        function = self._discovery.create_namespaced_endpoint_slice
        return _call(
            function, namespace, body, field_manager=FIELD_MANAGER, _request_timeout=_limits(timeout)
        )

    def apply_slice(self, body: Object, timeout: float) -> Object:
        """Server-side apply (KEP-555) with force: fields of ours that others took are taken back.

        With `metadata.resourceVersion` in the body it fails with 409 if the slice has changed since.
        """
        return _call(
            self._discovery.patch_namespaced_endpoint_slice,
            body["metadata"]["name"],
            body["metadata"]["namespace"],
            body,
            field_manager=FIELD_MANAGER,
            force=True,
            _content_type="application/apply-patch+yaml",
            _request_timeout=_limits(timeout),
        )

    def create_event(self, body: Object) -> None:
        """An events.k8s.io/v1 Event."""
        _call(self._events.create_namespaced_event, body["metadata"]["namespace"], body)

    def stop_watches(self) -> None:
        """End every watch under way: the API server changed, or the process ends."""
        with self._watches_lock:
            watches = list(self._watches)
        for one in watches:
            one.stop()

    def _watch(
        self, function: Callable[..., Any], namespace: str, options: Mapping[str, Any]
    ) -> Iterator[Object]:
        # `object` keeps the client from building models, which raise on values that are newer than they are.
        one = watch.Watch(return_type="object")
        with self._watches_lock:
            self._watches.add(one)
        try:
            yield from one.stream(function, namespace, **options)
        finally:
            with self._watches_lock:
                self._watches.discard(one)


@dataclass(frozen=True)
class Collectible:
    """A collection that can be listed and watched."""

    kube: Kube
    function: Callable[..., Any]
    namespace: str
    selector: Mapping[str, str]

    def list(self) -> tuple[list[Object], str]:
        """The objects, and the resourceVersion to watch from."""
        document = _call(self.function, self.namespace, **self.selector)
        return document.get("items") or [], document["metadata"]["resourceVersion"]

    def watch(
        self, resource_version: str, seconds: int, silence: float, on_open: Callable[[], None]
    ) -> Iterator[tuple[str, Object]]:
        """(type, object) of each event, bookmarks included, until the API server ends it after `seconds`.

        `on_open` is called once the API server has accepted the watch, which may be long before the first
        event.

        `silence` (seconds) without a byte ends it as a failure. An error event is raised as ApiError; its
        status is 410 if the resourceVersion is too old.
        """
        options = {
            **self.selector,
            "resource_version": resource_version,
            "allow_watch_bookmarks": True,
            "timeout_seconds": seconds,
            "_request_timeout": (CONNECT_TIMEOUT, silence),
        }

        @functools.wraps(self.function)  # the client looks at the signature of what it is to call
        def function(*arguments: Any, **keywords: Any) -> Any:
            answer = self.function(*arguments, **keywords)
            if answer.status == 200:
                on_open()
            return answer

        try:
            for event in self.kube._watch(function, self.namespace, options):
                yield event["type"], event["raw_object"]
        except ApiException as error:
            raise ApiError.of(error) from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # ValueError and AttributeError are urllib3's when `stop` closes the socket under a read.
            raise ApiError(0, f"the watch broke off: {explain(error)}") from None


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def _limits(timeout: float) -> tuple[float, float]:
    return (min(CONNECT_TIMEOUT, timeout), timeout)


def _call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Object:
    """Call one of the generated functions and parse the answer as it is, whatever the client's models think
    of it.
    """
    try:
        answer = function(*arguments, _preload_content=False, **options)
        data = answer.data
        if not 200 <= answer.status <= 299:
            raise ApiException(http_resp=answer, body=data.decode("utf-8", "replace"))
        document = json.loads(data)
    except ApiException as error:
        raise ApiError.of(error) from None
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise ApiError(0, f"the answer broke off: {explain(error)}") from None
    if not isinstance(document, dict):
        raise ApiError(0, "the answer is no object")
    return document
