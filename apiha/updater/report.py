"""What is said of what happened: log lines, problems, metrics, Kubernetes Events. Decides nothing.

Reads: what it is told. Writes: the log, the metrics, the problems, the contact with the API servers, and what the
announcer is to announce.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from apiha.clock import Clock
from apiha.drained import Drained
from apiha.endpoint import Endpoint
from apiha.log import Reporter
from apiha.probe import ProbeResult
from apiha.slices import FAMILIES, ControlPlane
from apiha.updater.drains import DrainReport
from apiha.updater.events import DRAINED, Addresses, Announcer
from apiha.updater.health import Verdict
from apiha.updater.mirror import Plan
from apiha.updater.problems import LEADERS, SETTLED_AFTER, Contact, ProblemKey, Problems
from apiha.updater.requests import ApiError
from apiha.updater.service import APPLY

if TYPE_CHECKING:
    from apiha.updater.metrics import Metrics


class Recorder:
    """Hears what happened, from every thread, and says it. Thread-safe."""

    def __init__(self, report: Reporter, metrics: Metrics, announcer: Announcer, clock: Clock) -> None:
        self.report = report
        self.metrics = metrics
        self.contact = Contact()
        self.problems = Problems(report, clock, self._problem_changed)
        self._drains = DrainReport(self.problems, metrics, announcer, clock)
        self._announcer = announcer
        self._clock = clock
        self._reasons: dict[Endpoint, str] = {}  # why one is off
        self._known: frozenset[Endpoint] = frozenset()
        self._refused: dict[ProblemKey, dict[str, str]] = {}  # by verb: what the API server said
        self._failing_since: dict[tuple[ProblemKey, str], float] = {}  # by key and verb
        self._refused_lock = threading.Lock()

    def _problem_changed(self, key: ProblemKey, present: bool) -> None:
        self.metrics.problem.labels(key).set(1 if present else 0)

    # ------------------------------------------------------------------------------ the API servers

    def contacted(self, server: object, failure: str | None) -> None:
        """A request to an API server succeeded (None), or failed (why): no answer, or HTTP 429 or 5xx."""
        now = self._clock.monotonic()
        if failure is None:
            if self.contact.success(now):
                self.problems.set("api-server", None, "requests succeed again")
        elif self.contact.failure(now):
            self.problems.set(
                "api-server",
                f"no request to an API server succeeds ({server}: {failure}); the Service keeps its addresses as they "
                "are, and the updater goes on trying",
            )

    def tick(self) -> None:
        """Time passes: problems that last are said again."""
        self.problems.remind()

    def switched(self, server: object) -> None:
        """Requests go to another API server from now on."""
        self.metrics.server_switches.inc()
        self.report.info(f"talking to {server}", api_server=str(server))

    def answered(self, key: ProblemKey, verb: str, error: ApiError | None) -> None:
        """A request was answered, well (None) or badly. `contacted` hears of requests without an answer.

        A key has several verbs. Some may be refused while others are not; the key is solved when none is refused.
        HTTP 429 and 5xx are a problem of this key only if they last for 3 s while other requests succeed.
        """
        now = self._clock.monotonic()
        with self._refused_lock:
            refused = self._refused.setdefault(key, {})
            if error is None:
                self._failing_since.pop((key, verb), None)
                if refused.pop(verb, None) is None:
                    return
            elif error.status in (401, 403):
                refused[verb] = f"not permitted ({key}): {error}; {APPLY}"
            elif error.status:
                since = self._failing_since.setdefault((key, verb), now)
                if error.transient and (self.contact.away or now - since < SETTLED_AFTER):
                    return
                refused[verb] = f"the API server refuses ({key}): HTTP {error.status}: {error}"
            message = "; ".join(text for _, text in sorted(refused.items())) or None
        self.problems.set(key, message)

    def lease_answered(self, verb: str, error: ApiError | None) -> None:
        """A request for the Lease was answered."""
        if verb == "get" and error is None:
            self.answered("lease", "create", None)  # it exists: nobody has to create it any more
        self.answered("lease", verb, error)

    def credentials(self, problem: str | None) -> None:
        """Why changed credentials cannot be used; None if they can."""
        self.problems.set("credentials", problem, "the credentials can be used again")

    def watch_restarted(self, resource: str, reason: str) -> None:
        """The watch of a resource starts again."""
        self.metrics.watch_restarts.labels(resource, reason).inc()
        self.report.debug(f"the watch of {resource} starts again: {reason}", resource=resource, reason=reason)

    def event_dropped(self, error: ApiError) -> None:
        """A Kubernetes Event could not be written."""
        self.metrics.events_dropped.inc()
        self.answered("events", "create", error)

    # --------------------------------------------------------------------------------------- health

    def probed(self, result: ProbeResult) -> None:
        """A control plane was probed."""
        address = str(result.endpoint)
        self.metrics.probe_seconds.labels(address).observe(result.latency)
        if not result.health.usable:
            self.metrics.probe_failures.labels(address, result.health.value).inc()

    def health_changed(self, result: ProbeResult) -> None:
        """This result changed what the health check says of a control plane."""
        address = str(result.endpoint)
        if result.health.usable:
            self._reasons.pop(result.endpoint, None)
            self.report.info(f"{address} is alive", address=address)
        else:
            self._reasons[result.endpoint] = result.detail
            self.report.warning(f"{address} fails its health check: {result.detail}", address=address)

    # ---------------------------------------------------------------------------------- leading

    def term_began(self, term: str, state: Addresses) -> None:
        """This replica leads; `state` is what the last leader wrote."""
        self._announcer.start_from(state)
        self.report.info("leading: this replica writes", term=term)

    def term_ended(self, why: str, holder: str | None) -> None:
        """This replica no longer leads."""
        self.metrics.healthy.clear()
        for key in LEADERS:
            self.problems.forget(key)  # the new leader reports them
        with self._refused_lock:
            self._refused.pop("write", None)
            self._failing_since.pop(("write", "write"), None)
        self.report.warning(f"no longer leading: {why}", holder=holder)

    def leads(self, leading: bool) -> None:
        """Whether the pass that begins is a leader's."""
        self.metrics.leader.set(1 if leading else 0)

    # ------------------------------------------------------------------------------ the writer's pass

    def service(self, uid: str | None, problem: str | None) -> None:
        """The Service's uid (None where there is none), and what is wrong with it."""
        self._announcer.service_uid(uid)
        self.problems.set("service", problem, "the Service is as it should be")

    def foreign(self, service: str, found: Mapping[str, str], *, announce: bool) -> None:
        """Slices of the Service that somebody else made: name to maker."""
        self.metrics.foreign.set(len(found))
        names = ", ".join(f"{name} (by {maker})" for name, maker in found.items())
        message = (
            f"somebody else made EndpointSlices of {service}: {names}; kube-proxy uses them too. Delete them, and the "
            "Endpoints object or the selector that they come from"
            if found
            else None
        )
        if self.problems.set("foreign-slices", message, "gone") and message and announce:
            self._announcer.warn("ForeignEndpointSlice", message)

    def drained(self, drained: Drained, present: Collection[str], *, announce: bool) -> None:
        """The Service says this of drained control planes; `present` are the addresses of those there are."""
        self._drains.read(drained, present, announce=announce)

    def slices(self, planes: Collection[ControlPlane]) -> None:
        """The mirrored slices say this, as far as this replica knows; not what they should say."""
        for family in FAMILIES:
            members = [plane for plane in planes if plane.family == family]
            self.metrics.mirrored.labels(family).set(len(members))
            self.metrics.ready.labels(family).set(sum(plane.ready for plane in members))

    def planned(self, source: str, wanted: Plan, *, other_families: bool) -> None:
        """The leader decided on `wanted` for the control planes of the Service `source`.

        `other_families`: the source has addresses, but none of a family that our Service has.
        """
        of_families = " of a family that the Service has" if other_families else ""
        self.problems.set(
            "no-source",
            None
            if wanted.slices
            else f"the Service {source} has no address{of_families}: the slices stay as they are; look at the API "
            "servers' --endpoint-reconciler-type and their logs",
        )
        self.problems.set(
            "other-port",
            f"not mirrored: {', '.join(map(str, wanted.other_port))}. Most control planes listen on another port, and "
            "a slice has one port for all its addresses"
            if wanted.other_port
            else None,
        )
        self._drains.planned(wanted)
        last = "; ".join(sorted(set(self._reasons.copy().values())))
        self.problems.set(
            "all-unhealthy",
            f"no control plane ({', '.join(wanted.health_ignored)}) answers the health check from here, so its "
            "failures are ignored. Can this Pod reach them, and are their certificates valid for the name in --host? "
            f"Last: {last}"
            if wanted.health_ignored
            else None,
        )

    def probing(self, planes: Collection[ControlPlane]) -> None:
        """These control planes are probed from now on; what was reported of others is removed."""
        endpoints = frozenset(plane.endpoint for plane in planes)
        for endpoint in self._known - endpoints:
            self._reasons.pop(endpoint, None)
            self.metrics.forget_address(str(endpoint))
        self._known = endpoints

    def judged(self, verdict: Verdict, planes: Collection[ControlPlane]) -> None:
        """The health check says this of these control planes."""
        for plane in planes:
            self.metrics.healthy.labels(str(plane.endpoint)).set(0 if plane.endpoint in verdict.off else 1)

    def wrote(self, name: str, result: str) -> None:
        """A request that writes a slice: `created`, `applied`, `conflict` or `failed`."""
        self.metrics.writes.labels(name, result).inc()

    def mirrored(self, seconds: float) -> None:
        """A change of the source was written this many seconds after it came in."""
        self.metrics.mirror_seconds.observe(seconds)

    def published(self, wanted: Plan) -> None:
        """The slices say what `wanted` says: every write is done."""
        reasons = {**self._reasons.copy(), **dict.fromkeys(wanted.drained, DRAINED)}
        self._announcer.addresses(Addresses(frozenset(wanted.mirrored), frozenset(wanted.ready)), reasons)

    def in_sync(self) -> None:
        """The slices are known to be right."""
        self.metrics.synced()

    # ----------------------------------------------------------------------------------------- bugs

    def crashed(self, where: str, error: Exception) -> None:
        """A thread raised an exception that nobody expected; it is restarted."""
        self.report.error(internal_error(where, error))

    def pass_crashed(self, error: Exception) -> None:
        """The writer's pass raised such an exception."""
        self.problems.set("internal", internal_error("writer", error))

    def pass_went_well(self) -> None:
        """The writer's passes succeed again."""
        self.problems.set("internal", None)

    def abstains(self) -> None:
        """The Lease was released because the passes only crash."""
        self.report.warning("released the lease, so that another replica may lead", state="abstains")


def internal_error(where: str, error: Exception) -> str:
    """An exception that nobody expected, in a line; where it came from is printed on demand."""
    if os.environ.get("APIHA_DEBUG"):
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
    words = f"internal error in {where}: {type(error).__name__}: {error}"
    return f"{words} (please report; APIHA_DEBUG=1 shows where)"
