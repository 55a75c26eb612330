"""What /metrics shows; docs/metrics.md says what each means and which alerts to build on them.

Reads: what it is told. Writes: nothing but its registry.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from apiha import __version__
from apiha.probe import Health

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "apiha_updater"
_PROBE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
_WRITE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The updater's metrics, in a registry of their own; each is a prometheus_client metric and thread-safe."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """`now` is the Unix time in seconds, which Prometheus compares with its own."""
        # A gauge of a start time for every series, which nobody asked for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._now = now

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"{_PREFIX}_{name}", text, labels, registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{_PREFIX}_{name}", text, labels, registry=self.registry)

        self.leader = gauge("leader", "1 if this replica holds the lease and writes, else 0")
        self.mirrored = gauge("mirrored_addresses", "Control planes in the mirrored slices", "family")
        self.ready = gauge("ready_addresses", "Control planes that the mirrored slices call ready", "family")
        self.foreign = gauge("foreign_slices", "EndpointSlices of the Service that somebody else made")
        self.problem = gauge("problem", "1 while this problem is present; the log says what to do", "problem")
        self.probe_seconds = Histogram(
            f"{_PREFIX}_probe_seconds",
            "Time of a health probe, failures included",
            ["address"],
            buckets=_PROBE_BUCKETS,
            registry=self.registry,
        )
        self.probe_failures = counter("probe_failures", "Failed health probes", "address", "reason")
        self.healthy = gauge(
            "control_plane_healthy", "1 if the leader's health check finds it alive, else 0", "address"
        )
        self.drained = gauge(
            "control_plane_drained",
            "1 for each address that is drained, whether it is there or not",
            "address",
        )
        self.writes = counter("writes", "Requests that write a slice, by how they went", "slice", "result")
        self.mirror_seconds = Histogram(
            f"{_PREFIX}_mirror_seconds",
            "Time from the news of a change to the API server's answer to the write that mirrors it",
            buckets=_WRITE_BUCKETS,
            registry=self.registry,
        )
        self.watch_restarts = counter(
            "watch_restarts", "Watches begun anew before their time", "resource", "reason"
        )
        self.server_switches = counter("api_server_switches", "Changes of the API server that is talked to")
        self.events_dropped = counter("events_dropped", "Kubernetes Events that could not be written")
        self._last_sync = gauge(
            "last_sync_timestamp_seconds", "Unix time when the slices were last known to be right; 0 before"
        )
        gauge("build_info", "1; the version is in the label", "version").labels(__version__).set(1)

    def expect(self, slices: Iterable[str], resources: Iterable[str], problems: Iterable[str]) -> None:
        """Show what is known beforehand as 0: a first increase is one only after a 0."""
        for problem in problems:
            self.problem.labels(problem)
        for name in slices:
            for result in ("created", "applied", "conflict", "failed"):
                self.writes.labels(name, result)
        for resource in resources:
            for reason in ("expired", "closed", "failed"):
                self.watch_restarts.labels(resource, reason)

    def synced(self) -> None:
        """The slices are known to be right now."""
        self._last_sync.set(self._now())

    def forget_address(self, address: str) -> None:
        """A control plane is gone: without this its series would stay for ever."""
        # Each label set by its values: `remove_by_labels` is too new to count on.
        for metric in (self.healthy, self.probe_seconds):
            with contextlib.suppress(KeyError):
                metric.remove(address)
        for health in Health:
            with contextlib.suppress(KeyError):
                self.probe_failures.remove(address, health.value)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
