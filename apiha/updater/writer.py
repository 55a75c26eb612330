"""One pass of the writer: look at everything, decide, and write what differs.

Reads: the local copies of the source's slices, of our own slices and of the Service; the Lease; the health verdict.
Writes: the Service's EndpointSlices, and into their local copy what the API server answered.
What it saw and did it tells the recorder. The package's docstring has the argument why exactly one replica writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from apiha.clock import Clock
from apiha.drained import Drain, Drained, of_service
from apiha.endpoint import Endpoint
from apiha.slices import ControlPlane, Family, control_planes
from apiha.updater import service as services
from apiha.updater.cache import Cache, Source
from apiha.updater.events import Addresses
from apiha.updater.health import HealthChecker, Verdict
from apiha.updater.mirror import (
    LEADER_ANNOTATION,
    Target,
    agrees,
    desired,
    differs,
    foreign,
    held_back,
    plan,
    unready_endpoints,
)
from apiha.updater.requests import ApiError, Object

if TYPE_CHECKING:
    from apiha.updater.report import Recorder

_TIME_LIMITS = (1.0, 2.0, 4.0)  # s: short at first, as a healthy API server answers in milliseconds
LONGEST_WRITE = max(_TIME_LIMITS)  # s


class Deposed(Exception):
    """The Lease does not allow a write any more."""


class Lease(Protocol):
    """What the writer needs of the Lease; `apiha.updater.election.Lock` has the meaning of each."""

    @property
    def term(self) -> str | None:
        """A name for this time of leading, or None."""

    @property
    def holder(self) -> str | None:
        """Who holds it."""

    @property
    def why_lost(self) -> str:
        """Why the last term ended."""

    def write_window(self, term: str) -> float | None:
        """Seconds until it ends for others; None if no write may begin."""

    def confirm(self) -> bool:
        """Ask the API server whether it is ours; raises ApiError."""


class SliceApi(Protocol):
    """What the writer needs of the API; each raises ApiError."""

    def read_slice(self, namespace: str, name: str) -> Object:
        """One EndpointSlice."""

    def create_slice(self, namespace: str, name: str, family: Family, timeout: float) -> Object:
        """Make sure that there is one; returns it. One that is there keeps every field that it has."""

    def apply_slice(self, body: Object, timeout: float) -> Object:
        """Fails with 409 if it is not of the `metadata.resourceVersion` in the body."""


@dataclass(frozen=True)
class Copy:
    """A local copy, and what it is a copy of."""

    cache: Cache
    origin: Source

    def list_anew(self) -> None:
        """Fill the copy by a consistent read; raises ApiError."""
        self.cache.fill(self.origin)


class FencedSlices:
    """Writes slices, each write fenced by the Lease and by the version that the slice had when it was looked at."""

    def __init__(
        self,
        api: SliceApi,
        lease: Lease,
        live: Cache,
        namespace: str,
        on_write: Callable[[str, str], None],
    ) -> None:
        """`live` is told each answer; `on_write` hears the slice's name and how the request went."""
        self._api = api
        self._lease = lease
        self._live = live
        self._namespace = namespace
        self._on_write = on_write
        self._failures = 0  # in a row

    def write(self, body: Object, held: Object | None, term: str) -> bool:
        """Make the slice that was `held` (None: absent) equal to `body`.

        False if it was not as it was believed to be; the copy knows better now. Raises ApiError, and Deposed if no
        write is allowed any more.
        """
        name = body["metadata"]["name"]
        try:
            if held is None:
                held = self._create(name, body["addressType"], term)
                if held is None:
                    return False
            self._check_mark(held, term)
            meta = {
                **body["metadata"],
                "resourceVersion": held["metadata"]["resourceVersion"],
                "uid": held["metadata"]["uid"],
            }
            self._live.put(self._api.apply_slice({**body, "metadata": meta}, self._time_limit(term)))
        except ApiError as error:
            if error.status in (404, 409):  # gone, changed or created meanwhile
                self._on_write(name, "conflict")
                self._look_again(name)
                return False
            self._failures += 1
            self._on_write(name, "failed")
            raise
        self._failures = 0
        self._on_write(name, "applied")
        return True

    def _create(self, name: str, family: Family, term: str) -> Object | None:
        """An empty slice without labels: nobody takes notice of it before the fenced write that follows.

        None if somebody else made it meanwhile; it is as they made it, and the copy knows it now.
        """
        created = self._api.create_slice(self._namespace, name, family, self._time_limit(term))
        self._live.put(created, read=True)
        meta = created["metadata"]
        if meta.get("labels") or meta.get("annotations") or created.get("endpoints"):
            self._on_write(name, "conflict")
            return None
        self._on_write(name, "created")
        return created

    def _look_again(self, name: str) -> None:
        """Bring the copy of a slice up to date; raises ApiError."""
        try:
            self._live.put(self._api.read_slice(self._namespace, name), read=True)
        except ApiError as error:
            if error.status != 404:
                raise
            self._live.forget(name)

    def _check_mark(self, held: Object, term: str) -> None:
        """Somebody else's mark may be that of our successor, and our clock may have stood still: ask first."""
        mark = (held["metadata"].get("annotations") or {}).get(LEADER_ANNOTATION)
        if mark != term and not self._lease.confirm():
            raise Deposed

    def _time_limit(self, term: str) -> float:
        window = self._lease.write_window(term)
        if window is None:
            raise Deposed
        return min(window, _TIME_LIMITS[min(self._failures, len(_TIME_LIMITS) - 1)])


class Writer:
    """Makes passes; not thread-safe, as there is one writer."""

    def __init__(
        self,
        target: Target,
        source_name: str,
        vips: tuple[str, ...],
        *,
        source: Copy,
        live: Copy,
        service: Cache,
        lease: Lease,
        checker: HealthChecker | None,
        slices: FencedSlices,
        recorder: Recorder,
        clock: Clock,
        up_to_date: Callable[[], bool],
    ) -> None:
        """`source_name` is the mirrored Service, for messages; `checker` None mirrors without a health check;
        `up_to_date` says whether the copies follow the API server right now.
        """
        self._target = target
        self._source_name = source_name
        self._vips = vips
        self._source = source
        self._live = live
        self._service = service
        self._lease = lease
        self._checker = checker
        self._slices = slices
        self._recorder = recorder
        self._clock = clock
        self._up_to_date = up_to_date
        self._led: str | None = None  # the term of the last leader's pass

    def run_pass(self, news: float | None = None) -> bool:
        """Look at everything and write what differs; whether to look again at once.

        `news` is when (on the clock) the oldest change of the source came in that is not written yet. Raises ApiError
        and Deposed.
        """
        term = self._lease.term
        leading = term is not None and self._lease.write_window(term) is not None
        self._recorder.leads(leading)
        if term is None or not leading:
            self._follow()
            return False
        if not (self._source.cache.synced and self._live.cache.synced):
            return False
        if term != self._led:
            self._begin(term)
        return self._lead(term, news)

    def _begin(self, term: str) -> None:
        """A new leader's first look: at the API server, not at copies that may lag. Raises ApiError."""
        self._source.list_anew()
        self._live.list_anew()
        own = [item for name, item in self._live.cache.items().items() if name in self._target.slice_names]
        off = unready_endpoints(own)
        drained = self._drained(own).addresses  # no failures: the last leader may have had answers from them
        mirrored = frozenset(plane.endpoint for plane in control_planes(own))
        if self._checker is not None:
            self._checker.follow(self._endpoints(self._all_planes()))
            self._checker.take_over(endpoint for endpoint in off if endpoint.address not in drained)
        self._led = term
        self._recorder.term_began(term, Addresses(mirrored, mirrored - off))

    def _lead(self, term: str, news: float | None) -> bool:
        # This copy must be older than the look at the Lease before each write: see the package's docstring.
        live = self._live.cache.items()
        service = self._look_at_service()
        planes = self._planes(service)
        verdict = self._judge(planes)
        drained = self._look_at_drains(planes, live, announce=True)
        wanted = plan(self._target, planes, verdict, services.port_name(service), drained)
        self._recorder.planned(
            self._source_name, wanted, other_families=not planes and bool(self._all_planes())
        )
        self._look_at_slices(live, announce=True)
        written = 0
        for name, body in desired(wanted, live, self._target, term).items():
            if name in live and not differs(live[name], body):
                continue
            if not self._slices.write(body, live.get(name), term):
                return True
            written += 1
        self._recorder.answered("write", "write", None)
        if written and news is not None:
            self._recorder.mirrored(self._clock.monotonic() - news)
        self._count(self._live.cache.items())
        if wanted.slices:
            self._recorder.published(wanted)
            if self._up_to_date():
                self._recorder.in_sync()
        return False

    def _judge(self, planes: tuple[ControlPlane, ...]) -> Verdict:
        verdict = self._probe(planes)
        if self._checker is not None:
            self._recorder.judged(verdict, planes)
        return verdict

    def _probe(self, planes: tuple[ControlPlane, ...]) -> Verdict:
        """Have exactly these probed, and say what is known of them."""
        self._recorder.probing(planes)
        if self._checker is None:
            return Verdict()
        self._checker.follow(self._endpoints(planes))
        return self._checker.verdict

    def _follow(self) -> None:
        """A pass of a replica that does not lead."""
        if self._led is not None:
            self._led = None
            self._recorder.term_ended(self._lease.why_lost, self._lease.holder)
        live = self._live.cache.items()
        service = self._look_at_service()
        self._look_at_slices(live, announce=False)
        planes = self._planes(service)
        self._probe(planes)  # so that this replica knows how they are when it leads
        self._look_at_drains(planes, live, announce=False)
        # Health is the leader's to judge; addresses and ports must be right.
        wanted = plan(self._target, planes, Verdict(), services.port_name(service))
        if agrees(wanted, live, self._target) and self._up_to_date():
            self._recorder.in_sync()

    # ----------------------------------------------------------------------------------- observations

    def _all_planes(self) -> tuple[ControlPlane, ...]:
        return control_planes(self._source.cache.items().values())

    def _planes(self, service: Object | None) -> tuple[ControlPlane, ...]:
        """The control planes of the families that the Service has."""
        wanted = services.families(service, self._vips)
        return tuple(plane for plane in self._all_planes() if plane.family in wanted)

    @staticmethod
    def _endpoints(planes: tuple[ControlPlane, ...]) -> tuple[Endpoint, ...]:
        return tuple(plane.endpoint for plane in planes)

    def _look_at_service(self) -> Object | None:
        """The Service; None where there is none, or none is known yet."""
        if not self._service.synced:
            return None
        service = self._service.items().get(self._target.service)
        where = f"{self._target.namespace}/{self._target.service}"
        self._recorder.service(
            service["metadata"].get("uid") if service else None,
            services.problem(service, where, self._vips),
        )
        return service

    def _drained(self, own: Iterable[Object]) -> Drained:
        """What is drained: as the Service says, or as long as it was never read, as our own slices do."""
        if self._service.synced:
            return of_service(self._service.items().get(self._target.service))
        return Drained(tuple(map(Drain, sorted(held_back(own)))))

    def _look_at_drains(
        self, planes: tuple[ControlPlane, ...], live: dict[str, Object], *, announce: bool
    ) -> frozenset[str]:
        """The drained addresses, reported."""
        drained = self._drained(item for name, item in live.items() if name in self._target.slice_names)
        present = frozenset(plane.endpoint.address for plane in planes)
        self._recorder.drained(drained, present, announce=announce)
        return drained.addresses

    def _look_at_slices(self, live: dict[str, Object], *, announce: bool) -> None:
        where = f"{self._target.namespace}/{self._target.service}"
        self._recorder.foreign(where, foreign(live, self._target), announce=announce)
        self._count(live)

    def _count(self, live: dict[str, Object]) -> None:
        """What the slices say, not what they should."""
        own = (item for name, item in live.items() if name in self._target.slice_names)
        self._recorder.slices(control_planes(own))
