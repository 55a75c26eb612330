"""The updater's process: the parts, wired together; threads around one writer.

    followers -> copies -> writer (leader only) -> EndpointSlices
    election  -> Lease  -> writer
    checker   -> book   -> writer

Reads: the settings, the kubeconfig, signals. Writes: nothing itself; it starts what does, and serves the pages.
"""

from __future__ import annotations

import functools
import random
import signal
import threading
from collections.abc import Callable
from typing import get_args

from apiha.clock import Clock, SystemClock
from apiha.endpoint import Endpoint
from apiha.log import Reporter
from apiha.names import lease_name
from apiha.probe import ProbeResult
from apiha.slices import control_planes
from apiha.updater import pages, web
from apiha.updater.cache import Cache, Follower
from apiha.updater.credentials import CredentialFiles, CurrentProber
from apiha.updater.election import Election, Lock, boot_time
from apiha.updater.events import Announcer
from apiha.updater.health import PROBE_SHARE, HealthChecker
from apiha.updater.loop import News, WriterLoop
from apiha.updater.metrics import CONTENT_TYPE, Metrics
from apiha.updater.mirror import Target
from apiha.updater.problems import WATCHES, ProblemKey, Resource
from apiha.updater.report import Recorder
from apiha.updater.requests import Requests
from apiha.updater.resources import Resources
from apiha.updater.servers import Server, Servers
from apiha.updater.settings import Settings
from apiha.updater.supervisor import Supervisor
from apiha.updater.writer import LONGEST_WRITE, Copy, FencedSlices, Writer

SOURCE_NAMESPACE, SOURCE_SERVICE = "default", "kubernetes"
SOURCE = f"{SOURCE_NAMESPACE}/{SOURCE_SERVICE}"
_SETTLE = 30.0  # s between two tries to find a direct way to a control plane


class Updater:
    """Wires everything together; `run` blocks until a signal or `stop`."""

    def __init__(
        self,
        settings: Settings,
        report: Reporter,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        boot_time: Callable[[], float] = boot_time,
    ) -> None:
        """Raises ConfigError for a kubeconfig that cannot be used. Starts nothing, asks nothing.

        `boot_time` is the clock that measures the Lease.
        """
        self.settings = settings
        self.report = report
        self.clock = clock or SystemClock()
        self.rng = rng or random.Random()  # noqa: S311 (jitter)
        self.stop = threading.Event()
        self._lease_name = lease_name(settings.service)
        self.metrics = Metrics(lambda: self.clock.now().timestamp())
        self.announcer = Announcer(
            self.clock,
            namespace=settings.namespace,
            service=settings.service,
            identity=settings.identity,
        )
        self.recorder = Recorder(report, self.metrics, self.announcer, self.clock)
        self.supervisor = Supervisor(self.stop, self.rng, self.recorder.crashed)
        self.news = News(self.clock)
        self._reach_the_cluster()
        self._stand_for_election(boot_time)
        self._follow_the_cluster()
        self._write_to_the_cluster()

    def _reach_the_cluster(self) -> None:
        """Who we are there, which API servers there are, and how each proves itself."""
        settings = self.settings
        files = CredentialFiles(settings.kubeconfig, on_problem=self.recorder.credentials)
        self.probe = CurrentProber(files, settings.host, settings.health_interval * PROBE_SHARE)
        self.servers = Servers(files, self.probe, settings.identity, self.clock, on_switch=self._switched)
        self.requests = Requests(files, self.servers, self.recorder.contacted)
        self.kube = Resources(self.requests)

    def _stand_for_election(self, boot_time: Callable[[], float]) -> None:
        """The Lease, and the election that renews it."""
        settings = self.settings
        self.lock = Lock(
            self.kube.lease(settings.namespace, self._lease_name),
            settings.identity,
            lease_duration=settings.lease_duration,
            renew_deadline=settings.renew_deadline,
            now=boot_time,
            on_request=self.recorder.lease_answered,
        )
        self.election = Election(
            self.lock,
            retry_period=settings.retry_period,
            clock=self.clock,
            rng=self.rng,
            on_started=self.news.wake,
            on_stopped=self.news.wake,
        )

    def _follow_the_cluster(self) -> None:
        """Local copies of what the writer looks at."""
        settings, kube = self.settings, self.kube
        self.source = Copy(Cache(self.news.source_changed), kube.slices(SOURCE_NAMESPACE, SOURCE_SERVICE))
        self.live = Copy(Cache(self.news.wake), kube.slices(settings.namespace, settings.service))
        self.service = Copy(Cache(self.news.wake), kube.services(settings.namespace, settings.service))
        self.lease = Copy(Cache(self._lease_changed), kube.leases(settings.namespace, self._lease_name))
        copies: dict[Resource, Copy] = {
            "kubernetes": self.source,
            "slices": self.live,
            "service": self.service,
            "lease": self.lease,
        }
        self.followers = {name: self._follower(name, copy) for name, copy in copies.items()}

    def _follower(self, name: Resource, copy: Copy) -> Follower:
        return Follower(
            copy.origin,
            copy.cache,
            self.clock,
            random.Random(self.rng.random()),  # noqa: S311 (jitter)
            resync=self.settings.resync,
            on_restart=functools.partial(self.recorder.watch_restarted, name),
            on_error=functools.partial(self.recorder.answered, WATCHES[name]),
        )

    def _write_to_the_cluster(self) -> None:
        """The health check, and the writer that waits for everything above."""
        settings = self.settings
        target = Target(settings.namespace, settings.service)
        self.metrics.expect(target.slice_names, self.followers, get_args(ProblemKey))
        self.checker = HealthChecker(
            self.probe,
            self.clock,
            self.supervisor,
            interval=settings.health_interval,
            timeout=settings.health_interval * PROBE_SHARE,
            failures=settings.health_failures,
            on_result=self._probed,
            on_change=self._health_changed,
        )
        self.writer = Writer(
            target,
            SOURCE,
            settings.vips,
            source=self.source,
            live=self.live,
            service=self.service.cache,
            lease=self.lock,
            checker=self.checker if settings.health_check else None,
            slices=FencedSlices(
                self.kube, self.lock, self.live.cache, settings.namespace, self.recorder.wrote
            ),
            recorder=self.recorder,
            clock=self.clock,
            up_to_date=self._up_to_date,
        )
        self.loop = WriterLoop(
            self.writer.run_pass, self.news, self.lock, self.recorder, self.clock, self.rng, self.stop
        )

    # ---------------------------------------------------------------------------------- the process

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, then let go of the Lease.

        Raises ConfigError if it cannot listen where the settings say.
        """
        served: dict[str, Callable[[], web.Answer]] = {
            "/metrics": lambda: (200, CONTENT_TYPE, self.metrics.render()),
            "/healthz": lambda: web.page(self.unhealthy()),
            "/readyz": lambda: web.page(self.unready()),
        }
        port, close = web.serve(self.settings.listen, served)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop.set())
        s = self.settings
        self.report.info(f"mirroring {SOURCE} to {s.namespace}/{s.service}", identity=s.identity, port=port)
        for name, follower in self.followers.items():
            self.supervisor.start(f"watch-{name}", functools.partial(follower.run, self.stop))
        self.supervisor.start("announcer", self._announce)
        self.supervisor.start("housekeeper", self._keep_house)
        election = self.supervisor.start("election", self.election.run)
        writer = self.supervisor.start("writer", self.loop.run)
        self.stop.wait()
        self.report.info("stopping")
        self.news.wake()
        self.election.stop()
        self.checker.follow(())
        # No write may be under way when the Lease goes; one that hangs ends with its time limit.
        writer.join(LONGEST_WRITE)
        election.join(1.0)
        if not writer.is_alive() and self.lock.release():
            self.report.info("released the lease")
        self.requests.stop_watches()
        close()
        self.supervisor.join(2.0)

    def unhealthy(self) -> list[str]:
        """What /healthz complains of."""
        silences = {"pass of the writer": self.loop.silence}
        silences |= {f"probe of {one}": seconds for one, seconds in self.checker.silences().items()}
        return pages.unhealthy(ended_threads=self.supervisor.ended(), silences=silences)

    def unready(self) -> list[str]:
        """What /readyz complains of."""
        copies = {"kubernetes": self.source, "slices": self.live, "service": self.service}
        success = self.recorder.contact.last_success
        return pages.unready(
            listed={name: copy.cache.synced for name, copy in copies.items()},
            holder=self.lock.holder,
            lease_valid=self.lock.valid,
            api_servers_fail=self.recorder.contact.away,
            since_success=None if success is None else self.clock.monotonic() - success,
            renew_deadline=self.settings.renew_deadline,
        )

    def _announce(self) -> None:
        self.announcer.run(self.stop, self.kube.create_event, self.recorder.event_dropped)

    def _keep_house(self) -> None:
        """What may take a while and must not hold up the writer."""
        known: tuple[Endpoint, ...] = ()
        settled = float("-inf")
        while not self.stop.is_set():
            planes = control_planes(self.source.cache.items().values())
            endpoints = tuple(plane.endpoint for plane in planes)
            if endpoints and endpoints != known:
                known = endpoints
                self.servers.know(endpoints)
                settled = float("-inf")
            if endpoints and self.clock.monotonic() - settled >= _SETTLE:
                self.servers.settle()
                settled = self.clock.monotonic()
            self.recorder.tick()
            self.stop.wait(0.5)

    # ----------------------------------------------------------------------- news that is acted upon

    def _up_to_date(self) -> bool:
        """Whether the copies follow the API server right now."""
        followed = all(self.followers[name].connected for name in ("kubernetes", "slices"))
        return followed and not self.recorder.contact.away

    def _lease_changed(self) -> None:
        # Somebody's request was carried out: while a standby hears of renewals it makes none of its own.
        self.recorder.contacted(self.servers.current, None)
        self.election.tell(self.lease.cache.items().get(self._lease_name))

    def _switched(self, server: Server) -> None:
        self.recorder.switched(server)
        # Watches of the old server may hang for as long as it is silent.
        self.requests.stop_watches()

    def _probed(self, result: ProbeResult) -> None:
        self.recorder.probed(result)
        if not result.health.usable:
            # Our own requests must not wait for a control plane of which we know that it is silent.
            self.servers.leave_endpoint(result.endpoint)

    def _health_changed(self, result: ProbeResult) -> None:
        self.recorder.health_changed(result)
        self.news.wake()
