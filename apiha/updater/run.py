"""The updater's process: threads around one writer.

    followers  -> caches -> writer (leader only) -> EndpointSlices
    election   -> lock ->   writer
    checker    -> book  ->  writer

Every event sets one flag; the writer then looks at the newest state of everything and writes what differs. So
a thousand changes while a write is under way cost one more write, and the last state always wins.
"""

from __future__ import annotations

import functools
import logging
import os
import random
import re
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apiha.clock import Clock, SystemClock, backoff
from apiha.durations import format_duration
from apiha.endpoint import Endpoint, parse_ip
from apiha.errors import ConfigError
from apiha.log import Reporter
from apiha.probe import Prober, ProbeResult
from apiha.settings import SETTINGS
from apiha.slices import FAMILIES, ControlPlane, Family, control_planes
from apiha.trust import make_ssl_context
from apiha.updater import web
from apiha.updater.cache import Cache, Follower, Restart
from apiha.updater.election import Election, Lock, check_timing
from apiha.updater.events import Addresses, Announcer
from apiha.updater.health import PROBE_SHARE, HealthChecker, Verdict
from apiha.updater.kube import (
    ApiError,
    FailoverApiClient,
    Kube,
    Object,
    Server,
    Servers,
    authority,
    bearer,
    client_certificate,
    load_configuration,
)
from apiha.updater.metrics import CONTENT_TYPE, Metrics
from apiha.updater.mirror import (
    LEADER_ANNOTATION,
    Plan,
    Target,
    agrees,
    desired,
    differs,
    foreign,
    plan,
    unready_endpoints,
)
from apiha.updater.problems import Contact, Problems

SOURCE_NAMESPACE, SOURCE_SERVICE = "default", "kubernetes"
LEASE = "apiserver-updater"
_TICK = 1.0  # s: the writer looks at everything this often even if nothing happened
_WRITE_TIMEOUTS = (1.0, 2.0, 4.0)  # s: short at first, as a healthy API server answers in milliseconds
_CONFLICTS = 5  # refused writes in a row that are repeated at once
_WEDGED = 60.0  # s without a pass of the writer after which /healthz asks for a restart
_CRASHES = 3  # passes in a row that end in a bug before another replica is to lead
_SETTLE = 30.0  # s between two tries to find a direct way to a control plane
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123
_HOST = next(setting for setting in SETTINGS if setting.key == "host")
_APPLY = "`apiha manifests ... | kubectl apply -f -` puts it right"


@dataclass(frozen=True)
class Settings:
    """What the command line says; times in seconds. `vips` are the clusterIPs that the Service should have,
    if any given.
    """

    kubeconfig: Path | None = None
    namespace: str = "kube-system"
    service: str = "apiserver"
    vips: tuple[str, ...] = ()
    host: str = "apiserver.cluster.local"
    identity: str = ""
    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0
    health_check: bool = True
    health_interval: float = 1.0
    health_failures: int = 2
    resync: float = 300.0
    listen: str = ":8080"

    def checked(self) -> Settings:
        """The same with every value in its canonical form; raises ConfigError."""
        check_timing(self.lease_duration, self.renew_deadline, self.retry_period)
        web.parse_listen(self.listen)
        if self.health_interval < 0.1:
            raise ConfigError("--health-interval: expected at least 100ms")
        if self.resync < 1:
            raise ConfigError("--resync: expected at least 1s")
        try:
            vips = tuple(parse_ip(vip) for vip in self.vips)
        except ValueError as error:
            raise ConfigError(f"--vip: {error}") from None
        for flag, name in (("--namespace", self.namespace), ("--service", self.service)):
            if not _LABEL.fullmatch(name):
                raise ConfigError(
                    f"{flag}: {name!r} is no name that Kubernetes takes: a to z, 0 to 9 and -, at most 63 characters"
                )
        try:
            host = _HOST.from_text(self.host)
        except ValueError as error:
            raise ConfigError(f"--host: {error}") from None
        identity = self.identity or default_identity()
        return Settings(**{**self.__dict__, "vips": vips, "host": host, "identity": identity})


def default_identity() -> str:
    """The Pod's name (its hostname) and a random number.

    The number is for a process that starts anew under the same name: it must not take itself for the one that
    held the Lease.
    """
    return f"{os.environ.get('POD_NAME') or socket.gethostname()}_{secrets.token_hex(4)}"


class Deposed(Exception):
    """The Lease does not allow a write any more."""


class Updater:
    """Wires everything together; `run` blocks until a signal or `stop`."""

    def __init__(
        self,
        settings: Settings,
        report: Reporter,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Raises ConfigError for settings or a kubeconfig that are no use. Starts nothing, asks nothing."""
        self.settings = settings = settings.checked()
        self.report = report
        self.clock = clock or SystemClock()
        self.rng = rng or random.Random()  # noqa: S311 (jitter)
        self.target = Target(settings.namespace, settings.service)
        self.metrics = Metrics(self.clock.monotonic)
        self.problems = Problems(report, self._on_problem)
        self.contact = Contact()
        self.stop_event = threading.Event()
        self._dirty = threading.Event()
        self._last_pass = self.clock.monotonic()
        self._crashes = 0  # passes since the last good one that ended in a bug
        self._crashed_leading = False
        self._source_news: float | None = None
        self._led: str | None = None  # the term in which the writer last worked
        self._reasons: dict[Endpoint, str] = {}  # why one is off
        self._known: set[Endpoint] = set()
        self._write_failures = 0
        self._refused: dict[str, dict[str, str]] = {}  # by problem and verb: what the API server said
        self._refused_lock = threading.Lock()
        self._threads: list[threading.Thread] = []

        configuration = load_configuration(settings.kubeconfig)
        ca = authority(configuration)
        # Where anonymous access is off, a control plane tells nobody else whether it is ready. To a server that need
        # not prove itself nothing is shown.
        certificate, key = client_certificate(configuration) if ca is not None else (None, None)
        try:
            context = make_ssl_context(ca, client_cert=certificate, client_key=key, insecure=ca is None)
        except ValueError as error:
            message = str(error)
            raise ConfigError(
                f"the kubeconfig: {message}" if "client cert" in message else f"the cluster's CA: {message}"
            ) from None
        timeout = settings.health_interval * PROBE_SHARE
        credentials = functools.partial(bearer, configuration) if ca is not None else None
        prober = Prober(settings.host, context, timeout, headers=credentials)
        self.servers = Servers(
            configuration, prober, settings.identity, self.clock, on_switch=self._on_switch
        )
        api_client = FailoverApiClient(configuration, self.servers, self._on_contact)
        self.kube = Kube(api_client)

        self.source = Cache(self._on_source)
        self.live = Cache(self._dirty.set)
        self.services = Cache(self._dirty.set)
        self.leases = Cache(self._on_lease)
        self._source_objects = self.kube.slices(SOURCE_NAMESPACE, SOURCE_SERVICE)
        self._live_objects = self.kube.slices(settings.namespace, settings.service)
        service_objects = self.kube.services(settings.namespace, settings.service)
        self.followers = {
            "kubernetes": self._follower("kubernetes", self._source_objects, self.source),
            "slices": self._follower("slices", self._live_objects, self.live),
            "service": self._follower("service", service_objects, self.services),
            "lease": self._follower("lease", self.kube.leases(settings.namespace, LEASE), self.leases),
        }
        self.metrics.expect(self.target.slice_names, self.followers)
        self.lock = Lock(
            api_client,
            LEASE,
            settings.namespace,
            settings.identity,
            lease_duration=settings.lease_duration,
            renew_deadline=settings.renew_deadline,
            on_error=self._on_lease_request,
        )
        self.election = Election(
            self.lock,
            lease_duration=settings.lease_duration,
            renew_deadline=settings.renew_deadline,
            retry_period=settings.retry_period,
            rng=self.rng,
            on_started=self._on_lease_taken,
            on_stopped=self._dirty.set,
        )
        self.checker = HealthChecker(
            prober.probe,
            self.clock,
            interval=settings.health_interval,
            timeout=timeout,
            failures=settings.health_failures,
            on_result=self._on_probe,
            on_change=self._on_health,
        )
        self.announcer = Announcer(
            self.kube.create_event,
            self.clock,
            namespace=settings.namespace,
            service=settings.service,
            identity=settings.identity,
            on_dropped=self._on_event_dropped,
        )

    def _follower(self, name: str, source: Any, cache: Cache) -> Follower:
        def restarted(reason: Restart) -> None:
            self.metrics.watch_restarts.labels(name, reason).inc()
            self.report.debug(f"the watch of {name} begins anew: {reason}", resource=name, reason=reason)

        return Follower(
            source,
            cache,
            self.clock,
            random.Random(self.rng.random()),  # noqa: S311 (jitter)
            resync=self.settings.resync,
            on_restart=restarted,
            on_error=lambda verb, error: self._on_api(f"watch-{name}", verb, error),
        )

    # ---------------------------------------------------------------------------------- the process

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, then let go of the Lease; raises ConfigError if `listen` cannot be
        had.
        """
        for name in ("leaderelection", "urllib3", "kubernetes"):
            logger = logging.getLogger(name)
            logger.addHandler(logging.NullHandler())
            logger.propagate = False  # what matters of it is reported by us
        pages: dict[str, Callable[[], web.Answer]] = {
            "/metrics": lambda: (200, CONTENT_TYPE, self.metrics.render()),
            "/healthz": lambda: self._page(self._unhealthy()),
            "/readyz": lambda: self._page(self._unready()),
        }
        port, close = web.serve(self.settings.listen, pages)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop_event.set())
        s = self.settings
        self.report.info(
            f"mirroring {SOURCE_NAMESPACE}/{SOURCE_SERVICE} to {s.namespace}/{s.service}",
            identity=s.identity,
            port=port,
        )
        for name, follower in self.followers.items():
            self._start(f"watch-{name}", functools.partial(follower.run, self.stop_event))
        self._start("announcer", lambda: self.announcer.run(self.stop_event))
        self._start("housekeeper", self._keep_house)
        election = self._start("election", self.election.run_until_stopped)
        writer = self._start("writer", self._write)
        self.stop_event.wait()
        self.report.info("stopping")
        self._dirty.set()
        self.election.stop()
        self.checker.switch_off()
        # No write may be under way when the Lease goes; one that hangs ends with its time limit.
        writer.join(max(_WRITE_TIMEOUTS))
        election.join(1.0)
        if not writer.is_alive() and self.lock.release():
            self.report.info("released the lease")
        self.kube.stop_watches()
        close()

    def _start(self, name: str, body: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            attempt = 0
            while not self.stop_event.is_set():
                try:
                    body()
                    return
                except Exception as error:  # a bug: say so, go on, and let nothing stop silently
                    self.report.error(_bug(name, error))
                    self.stop_event.wait(backoff(attempt, self.rng))
                    attempt += 1

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    @staticmethod
    def _page(problems: list[str]) -> web.Answer:
        return (503 if problems else 200), web.TEXT, ("\n".join(problems or ["ok"]) + "\n").encode()

    def _unhealthy(self) -> list[str]:
        """What only a restart would cure. That the API server is away is not among it."""
        dead = [f"the thread {thread.name} has ended" for thread in self._threads if not thread.is_alive()]
        silent = self.clock.monotonic() - self._last_pass
        return dead + ([f"no pass of the writer for {format_duration(silent)}"] if silent > _WEDGED else [])

    def _unready(self) -> list[str]:
        """Why this replica could not do its work now, or take it over."""
        caches = {"kubernetes": self.source, "slices": self.live, "service": self.services}
        missing = [f"{name}: not listed yet" for name, cache in caches.items() if not cache.synced]
        if self.lock.holder is None:
            missing.append("lease: nobody is known to hold it")
        return missing + (["the API server does not answer"] if self.contact.away else [])

    # ------------------------------------------------------------------------ news from the threads

    def _on_source(self) -> None:
        if self._source_news is None:
            self._source_news = self.clock.monotonic()
        self._dirty.set()

    def _on_lease_request(self, verb: str, error: ApiError | None) -> None:
        if verb == "get" and error is None:
            self._on_api("lease", "create", None)  # there is one: nobody has to create it any more
        self._on_api("lease", verb, error)

    def _on_lease(self) -> None:
        self.election.wake()

    def _on_lease_taken(self) -> None:
        self._dirty.set()

    def _on_switch(self, server: Server) -> None:
        self.metrics.server_switches.inc()
        self.report.info(f"talking to {server}", api_server=str(server))
        # Watches of the old server may hang for as long as it is silent.
        self.kube.stop_watches()

    def _on_contact(self, server: Server, failure: str | None) -> None:
        if failure is None:
            if self.contact.success():
                self.problems.set("api-server", None, "an API server answers again")
        elif self.contact.failure(self.clock.monotonic()):
            self.problems.set(
                "api-server",
                f"no API server answers ({server}: {failure}); the Service keeps its addresses as they are, "
                "and this goes on trying",
            )

    def _on_api(self, key: str, verb: str, error: ApiError | None) -> None:
        """A request was answered, well (None) or badly; no answer at all is `_on_contact`'s.

        A key has several verbs, of which some may be refused and others not: it is solved when none is.
        """
        with self._refused_lock:
            refused = self._refused.setdefault(key, {})
            if error is None:
                if refused.pop(verb, None) is None:
                    return
            elif error.status in (401, 403):
                refused[verb] = f"not permitted ({key}): {error}; {_APPLY}"
            elif error.status:
                refused[verb] = f"the API server refuses ({key}): HTTP {error.status}: {error}"
            message = "; ".join(text for _, text in sorted(refused.items())) or None
        self.problems.set(key, message)

    def _on_event_dropped(self, error: ApiError) -> None:
        self.metrics.events_dropped.inc()
        self._on_api("events", "create", error)

    def _on_problem(self, key: str, present: bool) -> None:
        self.metrics.problem.labels(key).set(1 if present else 0)

    def _on_probe(self, result: ProbeResult) -> None:
        address = str(result.endpoint)
        self.metrics.probe_seconds.labels(address).observe(result.latency)
        if not result.health.usable:
            self.metrics.probe_failures.labels(address, result.health.value).inc()
            # Our own requests must not wait for a control plane of which we know that it is silent.
            self.servers.leave_endpoint(result.endpoint)

    def _on_health(self, result: ProbeResult) -> None:
        address = str(result.endpoint)
        if result.health.usable:
            self._reasons.pop(result.endpoint, None)
            self.report.info(f"{address} is alive", address=address)
        else:
            self._reasons[result.endpoint] = result.detail
            self.report.warning(f"{address} fails its health check: {result.detail}", address=address)
        self._dirty.set()

    def _keep_house(self) -> None:
        """What may take a while and must not hold up the writer."""
        known: tuple[Endpoint, ...] = ()
        settled = float("-inf")
        while not self.stop_event.is_set():
            planes = self._planes()
            if planes and planes != known:
                known = planes
                self.servers.know(planes)
                settled = float("-inf")
            if planes and self.clock.monotonic() - settled >= _SETTLE:
                self.servers.settle()
                settled = self.clock.monotonic()
            self.stop_event.wait(0.5)

    def _planes(self) -> tuple[Endpoint, ...]:
        return tuple(plane.endpoint for plane in self._source_planes())

    def _source_planes(self) -> tuple[ControlPlane, ...]:
        return control_planes(self.source.items().values())

    # ----------------------------------------------------------------------------------- the writer

    def _write(self) -> None:
        """The writer's thread: one pass for each batch of news, and one a second."""
        conflicts = 0
        while not self.stop_event.is_set():
            self._dirty.clear()
            news, self._source_news = self._source_news, None
            leading = self.lock.term is not None
            try:
                again = self._pass(news)
                self._turned(leading)
                if again:
                    self._source_news = news  # not done: the clock of this change runs on
                conflicts = conflicts + 1 if again else 0
                if conflicts > _CONFLICTS:
                    raise ApiError(409, "somebody else keeps changing the slice")
            except Deposed:
                self._last_pass = self.clock.monotonic()
                continue
            except ApiError as error:
                self._last_pass = self.clock.monotonic()
                self._source_news = news
                self._write_failures += 1
                self._on_api("write", "write", error)
                # News must not wait out the pause for a problem that they may have ended.
                self._dirty.wait(backoff(self._write_failures, self.rng, base=0.05, cap=5.0))
                continue
            except Exception as error:
                self._source_news = news
                self._crashed(error, leading)
                self.stop_event.wait(backoff(self._crashes, self.rng, base=0.05, cap=5.0))
                continue
            if not again:
                self._dirty.wait(_TICK)

    def _turned(self, leading: bool) -> None:
        """A pass came to its end. One that only followed does not excuse a leader's that did not."""
        if self._crashes and (leading or not self._crashed_leading):
            self._crashes, self._crashed_leading = 0, False
            self.problems.set("internal", None)
        if not self._crashes:
            self._last_pass = self.clock.monotonic()

    def _crashed(self, error: Exception, leading: bool) -> None:
        """A pass ended in a bug. Say so, go on, and if it stays so let another replica lead; /healthz, which counts
        good passes, then asks for a restart.
        """
        self._crashes += 1
        self._crashed_leading |= leading
        self.problems.set("internal", _bug("writer", error))
        if leading and self._crashes >= _CRASHES and self.lock.abstain("an internal error"):
            self.report.warning("released the lease, so that another replica may lead", state="abstains")

    def _pass(self, news: float | None = None) -> bool:
        """Look at everything and write what differs; whether to look again at once.

        `news` is when the oldest change of the source came in. Raises ApiError and Deposed.
        """
        term = self.lock.term
        if term is None or self.lock.write_window(term) is None:
            self._follow_only()
            return False
        if not (self.source.synced and self.live.synced):
            return False
        if term != self._led:
            self._begin_term(term)
        # The copy of the live slices must be older than the look at the lease that follows: see the package's
        # docstring.
        live = self.live.items()
        service = self._look_at_service()
        planes = [plane for plane in self._source_planes() if plane.family in self._families(service)]
        endpoints = [plane.endpoint for plane in planes]
        if self.settings.health_check:
            self.checker.follow(endpoints)
        health = self.checker.verdict
        wanted = plan(self.target, planes, health, _port_name(service))
        self._look_at_plan(wanted, health, endpoints)
        self._look_at_foreign(live, announce=True)
        self._count()
        written = 0
        for name, body in desired(wanted, live, self.target, term).items():
            if name in live and not differs(live[name], body):
                continue
            if not self._write_slice(name, body, live.get(name), term):
                return True
            written += 1
        self._write_failures = 0
        self._on_api("write", "write", None)
        if written and news is not None:
            self.metrics.mirror_seconds.observe(self.clock.monotonic() - news)
        # Only now that it is so.
        self._count()
        if wanted.slices:
            self.announcer.addresses(
                Addresses(frozenset(wanted.mirrored), frozenset(wanted.ready)), self._reasons
            )
            self._in_sync()
        return False

    def _in_sync(self) -> None:
        """The slices are right, if the news is good that this was judged by."""
        if (
            not self.contact.away
            and self.followers["kubernetes"].connected
            and self.followers["slices"].connected
        ):
            self.metrics.synced()

    def _families(self, service: Object | None) -> frozenset[Family]:
        """The address families that the Service has, else those that it should have, else both."""
        spec = (service or {}).get("spec") or {}
        addresses = spec.get("clusterIPs") or self.settings.vips
        named = spec.get("ipFamilies") or ["IPv6" if ":" in address else "IPv4" for address in addresses]
        return frozenset(family for family in FAMILIES if family in named) or frozenset(FAMILIES)

    def _begin_term(self, term: str) -> None:
        """A new leader's first look: at the API server, not at copies that may lag. Raises ApiError."""
        self.source.fill(self._source_objects)
        self.live.fill(self._live_objects)
        own = [item for name, item in self.live.items().items() if name in self.target.slice_names]
        off = unready_endpoints(own)
        mirrored = frozenset(plane.endpoint for plane in control_planes(own))
        self.announcer.start_from(Addresses(mirrored, mirrored - off))
        if self.settings.health_check:
            self.checker.switch_on(self._planes(), off)
        self.metrics.leader.set(1)
        self._led = term
        self.report.info("leading: this replica writes", term=term)

    def _follow_only(self) -> None:
        """A pass of a replica that does not lead."""
        if self._led is not None:
            self._led = None
            self.checker.switch_off()
            self.metrics.healthy.clear()
            for key in ("write", "no-source", "other-port", "all-unhealthy"):
                self.problems.forget(key)  # the new leader's to tell
            with self._refused_lock:
                self._refused.pop("write", None)
            self.report.warning(f"no longer leading: {self.lock.why_lost}", holder=self.lock.holder)
        self.metrics.leader.set(0)
        live = self.live.items()
        service = self._look_at_service()
        self._look_at_foreign(live, announce=False)
        self._count()
        families = self._families(service)
        planes = [plane for plane in self._source_planes() if plane.family in families]
        # Health is the leader's to judge; addresses and ports must be right.
        if agrees(plan(self.target, planes, Verdict(), _port_name(service)), live, self.target):
            self._in_sync()

    def _write_slice(self, name: str, body: Object, held: Object | None, term: str) -> bool:
        """One fenced write; False if the slice was not as it was believed to be and is now known better.

        Raises ApiError, and Deposed if we may not write any more.
        """
        try:
            if held is None:
                # No labels yet: nobody takes notice of it before the fenced write.
                bare = {"name": name, "namespace": self.target.namespace}
                held = self.kube.create_slice(
                    {**body, "metadata": bare, "endpoints": [], "ports": []}, self._time_limit(term)
                )
                self.metrics.writes.labels(name, "created").inc()
                self.live.put(held, read=True)
            if (held["metadata"].get("annotations") or {}).get(
                LEADER_ANNOTATION
            ) != term and not self.lock.confirm():
                # Somebody else's mark may be that of our successor, and our clock may have stood still.
                raise Deposed
            meta = {
                **body["metadata"],
                "resourceVersion": held["metadata"]["resourceVersion"],
                "uid": held["metadata"]["uid"],
            }
            self.live.put(self.kube.apply_slice({**body, "metadata": meta}, self._time_limit(term)))
        except ApiError as error:
            if error.status == 409:  # changed or created meanwhile
                self.metrics.writes.labels(name, "conflict").inc()
                self.live.put(self.kube.read_slice(self.target.namespace, name), read=True)
                return False
            if error.status == 404:
                self.metrics.writes.labels(name, "conflict").inc()
                self.live.forget(name)
                return False
            self.metrics.writes.labels(name, "failed").inc()
            raise
        self.metrics.writes.labels(name, "applied").inc()
        return True

    def _time_limit(self, term: str) -> float:
        window = self.lock.write_window(term)
        if window is None:
            raise Deposed
        return min(window, _WRITE_TIMEOUTS[min(self._write_failures, len(_WRITE_TIMEOUTS) - 1)])

    # -------------------------------------------------------------------------------- what is wrong

    def _look_at_service(self) -> Object | None:
        """The Service, and what is wrong with it."""
        if not self.services.synced:
            return None
        where = f"{self.target.namespace}/{self.target.service}"
        service = self.services.items().get(self.target.service)
        self.announcer.service_uid(service["metadata"].get("uid") if service else None)
        self.problems.set(
            "service", _service_problem(service, where, self.settings.vips), "the Service is as it should be"
        )
        return service

    def _look_at_plan(self, wanted: Plan, health: Verdict, endpoints: list[Endpoint]) -> None:
        of_families = " of a family that the Service has" if not endpoints and self._source_planes() else ""
        self.problems.set(
            "no-source",
            None
            if wanted.slices
            else f"the Service {SOURCE_NAMESPACE}/{SOURCE_SERVICE} has no address{of_families}: the slices stay as "
            "they are; look at the API servers' --endpoint-reconciler-type and their logs",
        )
        self.problems.set(
            "other-port",
            "not mirrored, as most control planes listen on another port and a slice has one for all: "
            + ", ".join(map(str, wanted.other_port))
            if wanted.other_port
            else None,
        )
        self.problems.set(
            "all-unhealthy",
            f"no control plane ({', '.join(wanted.health_ignored)}) answers from here, so the health check "
            "does not count: can this Pod reach them, and do their certificates carry "
            f"{self.settings.host} (--host)? Last: " + "; ".join(sorted(set(self._reasons.copy().values())))
            if wanted.health_ignored
            else None,
        )
        for endpoint in self._known - set(endpoints):
            self._reasons.pop(endpoint, None)
            self.metrics.forget_address(str(endpoint))
        self._known = set(endpoints)
        if self.settings.health_check:
            for endpoint in endpoints:
                self.metrics.healthy.labels(str(endpoint)).set(0 if endpoint in health.off else 1)

    def _look_at_foreign(self, live: dict[str, Object], *, announce: bool) -> None:
        found = foreign(live, self.target)
        self.metrics.foreign.set(len(found))
        names = ", ".join(f"{name} (by {maker})" for name, maker in found.items())
        message = (
            f"EndpointSlices of {self.target.namespace}/{self.target.service} made by somebody else: {names}; "
            "kube-proxy uses them too. Delete them, and the Endpoints object or the selector they come from"
            if found
            else None
        )
        if self.problems.set("foreign-slices", message, "gone") and message and announce:
            self.announcer.warn("ForeignEndpointSlice", message)

    def _count(self) -> None:
        """Count what the slices say, not what they should."""
        live = self.live.items()
        planes = control_planes(item for name, item in live.items() if name in self.target.slice_names)
        for family in FAMILIES:
            members = [plane for plane in planes if plane.family == family]
            self.metrics.mirrored.labels(family).set(len(members))
            self.metrics.ready.labels(family).set(sum(plane.ready for plane in members))


def _bug(where: str, error: Exception) -> str:
    """An exception that nobody expected, in a line; where it came from is printed on demand."""
    if os.environ.get("APIHA_DEBUG"):
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
    words = f"internal error in {where}: {type(error).__name__}: {error}"
    return f"{words} (please report; APIHA_DEBUG=1 shows where)"


def _port_name(service: Object | None) -> str | None:
    """The name of the Service's TCP port, which its slices must carry; `https` where there is no Service to
    ask.
    """
    if service is None:
        return "https"
    ports = [
        port for port in service.get("spec", {}).get("ports") or () if port.get("protocol", "TCP") == "TCP"
    ]
    ports.sort(key=lambda port: port.get("name") != "https")
    return ports[0].get("name") if ports else "https"


def _service_problem(service: Object | None, where: str, vips: tuple[str, ...]) -> str | None:
    """What is wrong with the Service, in one line that says what to do; None if nothing is."""
    if service is None:
        return f"there is no Service {where}: {_APPLY}; its EndpointSlices are kept as if there were one"
    spec = service.get("spec") or {}
    addresses = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    if vips and set(addresses) != set(vips):
        return (
            f"the Service {where} has the clusterIPs {', '.join(addresses) or 'none'}, not {', '.join(vips)} "
            "(--vip): nodes that use the latter do not reach it. A clusterIP cannot be changed: delete the Service "
            "and apply it anew, or correct --vip"
        )
    if spec.get("selector"):
        return f"the Service {where} has a selector: Kubernetes adds slices of its own; remove spec.selector. {_APPLY}"
    if not any(port.get("protocol", "TCP") == "TCP" for port in spec.get("ports") or ()):
        return f"the Service {where} has no TCP port; {_APPLY}"
    return None


__all__ = ["Settings", "Updater", "default_identity"]
