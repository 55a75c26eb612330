"""Leader election by a Lease (coordination.k8s.io/v1), by the rules of client-go's leaderelection.

Reads: the Lease, and a clock that nobody sets. Writes: the Lease.

A candidate takes the Lease if nobody holds it, or if it has not changed for as long as it lasts since the candidate
first saw it so. The holder renews it every `retry_period`, and counts itself as deposed if it did not succeed within
`renew_deadline`, which is less than what the Lease lasts. Every write names the resourceVersion that it replaces, so of
two candidates one succeeds.

Time is measured with CLOCK_BOOTTIME, which nobody sets and which goes on while the machine sleeps; the times in the
Lease are for people. A watch of the Lease (`Election.tell`) wakes a candidate: a release is seen at once, an expiry at
its own moment, and while the watch tells of renewals there is no need to ask.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, Protocol

from apiha.clock import Clock, backoff
from apiha.documents import at, mapping
from apiha.updater.requests import ApiError, Object

_LATE = "the lease was not renewed in time"
_EMPTIED = "somebody emptied the Lease"


def boot_time() -> float:
    """Seconds on a clock that nobody sets and that goes on while the machine sleeps: clock_gettime(2)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseApi(Protocol):
    """The Lease on the API server. Every call takes `timeout` seconds at most and raises ApiError."""

    def read(self, timeout: float) -> Object:
        """The Lease, by a consistent read; ApiError 404 if there is none."""

    def create(self, timeout: float) -> Object:
        """Make sure that there is one, and return it; one that is there stays as it is."""

    def replace(self, body: Object, timeout: float) -> Object:
        """Replace the Lease that has the resourceVersion in `body`; ApiError 409 if it has another by now."""


def holder_of(lease: Mapping[str, Any] | None) -> str | None:
    """Who a Lease says holds it; None for nobody."""
    return _spec(lease).get("holderIdentity") or None


def held_by(lease: Object, identity: str, lease_duration: float, now: datetime) -> Object:
    """The Lease as whoever takes or renews it writes it."""
    spec, micro_time = _spec(lease), _micro_time(now)
    taken = spec.get("holderIdentity") != identity
    fresh = {
        **spec,
        "holderIdentity": identity,
        "leaseDurationSeconds": int(lease_duration),
        "renewTime": micro_time,
        **({"acquireTime": micro_time, "leaseTransitions": _transitions(spec) + 1} if taken else {}),
    }
    return {**lease, "spec": fresh}


def released(lease: Object, now: datetime) -> Object:
    """The Lease as whoever gives it up leaves it, as client-go does: nobody's, and good for a second."""
    spec = {key: value for key, value in _spec(lease).items() if key != "holderIdentity"}
    return {**lease, "spec": {**spec, "leaseDurationSeconds": 1, "renewTime": _micro_time(now)}}


class Lock:
    """A Lease, held or not. The election's thread takes and renews it; others read `write_window` and `term`."""

    def __init__(
        self,
        api: LeaseApi,
        identity: str,
        *,
        lease_duration: float,
        renew_deadline: float,
        now: Callable[[], float] = boot_time,
        calendar: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        on_request: Callable[[str, ApiError | None], None] = lambda _verb, _error: None,
    ) -> None:
        """Times in seconds. `on_request` hears how each request went; that the Lease is absent or has changed since
        (404, 409) is no failure.
        """
        self.identity = identity
        self.why_lost = _LATE  # why the last term ended, for the log
        self.asked_to_wait = 0.0  # s: what the API server asked for when the last attempt failed
        self._api = api
        self._lease_duration = lease_duration
        self._renew_deadline = renew_deadline
        self._now = now
        self._calendar = calendar
        self._on_request = on_request
        # A request that hangs, the change to another API server and a second try must be over in time.
        self._timeout = renew_deadline / 3
        self._mutex = threading.Lock()
        self._lease: Object | None = None  # as last seen or written
        self._state: tuple[Any, ...] | None = None  # what of it changes with each renewal, and since when
        self._state_since = 0.0
        self._heard_at = float("-inf")
        self._renewed: float | None = None  # when the request of the last good renewal was sent
        self._term: str | None = None
        self._losses = 0  # calls of `lose`
        self._abstains_until = float("-inf")

    # -------------------------------------------------------------------------------------- what is known

    @property
    def holder(self) -> str | None:
        """Who holds the Lease, as far as we know."""
        return holder_of(self._lease)

    @property
    def term(self) -> str | None:
        """A name for this time of leading: our identity and a random number; None if we do not lead."""
        return self._term

    @property
    def expires_in(self) -> float:
        """Seconds until somebody else's Lease ends, if it is not renewed; 0 if it may be taken, or is ours."""
        with self._mutex:
            if holder_of(self._lease) in (None, self.identity):
                return 0.0
            theirs = _spec(self._lease).get("leaseDurationSeconds")
            lasts = max(self._lease_duration, float(theirs) if isinstance(theirs, int) else 0.0)
            return max(0.0, self._state_since + lasts - self._now())

    def follows(self, within: float) -> bool:
        """Whether somebody else's Lease is good, and we heard of it in the last `within` seconds."""
        return self.expires_in > 0.0 and self._now() - self._heard_at < within

    @property
    def valid(self) -> bool:
        """Whether somebody holds the Lease and, as far as we know, it has not ended."""
        with self._mutex:
            if self._term is not None and self._renewed is not None:
                return self._now() < self._renewed + self._lease_duration
        return self.expires_in > 0.0

    @property
    def renew_left(self) -> float:
        """Seconds left to renew in before we must count as deposed; 0 if we do not lead."""
        with self._mutex:
            return 0.0 if self._renewed is None else self._renewed + self._renew_deadline - self._now()

    def write_window(self, term: str) -> float | None:
        """Seconds until the Lease of this term ends for others; None if no write may begin any more."""
        with self._mutex:
            if self._renewed is None or self._term != term:
                return None
            age = self._now() - self._renewed
            return self._lease_duration - age if age < self._renew_deadline else None

    @property
    def abstaining(self) -> bool:
        """Whether we leave the Lease to others for now."""
        return self._now() < self._abstains_until

    # --------------------------------------------------------------------------------------- what is done

    def attempt(self) -> bool:
        """Renew the Lease, or take it if it may be taken; whether it is ours now."""
        losses = self._losses
        self.asked_to_wait = 0.0
        lease = self._lease if self._term is not None else None
        for _ in range(2):  # again if it changed meanwhile, by a label for example
            try:
                if lease is None:
                    lease = self._read()
                if losses != self._losses or self.abstaining or self.expires_in > 0.0:
                    return False
                sent = self._now()
                body = held_by(lease, self.identity, self._lease_duration, self._calendar())
                answer = self._replace(body)
                return self._took(answer, sent, losses)
            except ApiError as error:
                if error.status not in (404, 409):
                    self.asked_to_wait = error.pause(0.0)
                    return False
                lease = None
        return False

    def told(self, lease: Object) -> None:
        """A watch says that the Lease is so; what is older than what we know already is ignored."""
        with self._mutex:
            if _version(lease) <= _version(self._lease):
                return
            self._see(lease)

    def confirm(self) -> bool:
        """Ask the API server, by a consistent read, whether the Lease is ours; if not, count as deposed.

        For the one decision in which no clock is trusted: see the package's docstring. Raises ApiError.
        """
        try:
            lease: Object | None = self._ask("get", lambda: self._api.read(self._timeout))
        except ApiError as error:
            if error.status != 404:
                raise
            lease = None
        with self._mutex:
            self._see(lease)
            return self._term is not None and holder_of(lease) == self.identity

    def lose(self, why: str = _LATE) -> None:
        """Count as deposed, whatever the Lease says; an attempt under way comes to nothing."""
        with self._mutex:
            self._losses += 1
            self._lose(why)

    def abstain(self, why: str) -> bool:
        """Let the Lease go, and do not ask for it for as long as it lasts, so that another replica may lead.

        Returns whether it was let go. No write may be under way.
        """
        self._abstains_until = self._now() + self._lease_duration
        return self.release(why)

    def release(self, why: str = _LATE) -> bool:
        """Let the Lease go, if it is ours, so that another replica need not wait for its end; whether it was done."""
        mine = self._term is not None
        self.lose(why)
        for _ in range(2 if mine else 0):  # twice, in case a last renewal comes in between
            try:
                lease = self._ask("get", lambda: self._api.read(self._timeout))
                if holder_of(lease) != self.identity:
                    return False
                body = released(lease, self._calendar())
                self._replace(body)
                return True
            except ApiError as error:
                if error.status != 409:
                    return False  # then it ends by itself
        return False

    def _read(self) -> Object:
        try:
            lease = self._ask("get", lambda: self._api.read(self._timeout))
        except ApiError as error:
            if error.status != 404:
                raise
            lease = self._ask("create", lambda: self._api.create(self._timeout))
        with self._mutex:
            self._see(lease)
        return lease

    def _replace(self, body: Object) -> Object:
        return self._ask("update", lambda: self._api.replace(body, self._timeout))

    def _ask(self, verb: str, request: Callable[[], Object]) -> Object:
        try:
            answer = request()
        except ApiError as error:
            if error.status not in (404, 409):
                self._on_request(verb, error)
            raise
        self._on_request(verb, None)
        return answer

    def _took(self, lease: Object, sent: float, losses: int) -> bool:
        """The API server made the Lease ours; worth nothing if it was let go, or somebody else's, meanwhile."""
        with self._mutex:
            if losses != self._losses or _version(lease) < _version(self._lease):
                return False
            self._note(lease)
            self._renewed = sent
            if self._term is None:
                self._term = f"{self.identity}/{secrets.token_hex(4)}"
            return True

    def _see(self, lease: Object | None) -> None:
        """This is how the Lease is. Under the mutex."""
        self._note(lease)
        if (holder := holder_of(lease)) != self.identity:
            self._lose(f"{holder} does" if holder else _EMPTIED)

    def _note(self, lease: Object | None) -> None:
        spec = _spec(lease)
        state = (holder_of(lease), spec.get("renewTime"), spec.get("leaseTransitions"))
        self._heard_at = self._now()
        if state != self._state:
            self._state, self._state_since = state, self._heard_at
        self._lease = lease

    def _lose(self, why: str) -> None:
        if self._term is not None:
            self.why_lost = why
        self._renewed = self._term = None


class Election:
    """Runs for leader until `stop`; leading, losing and running again, as often as it takes."""

    def __init__(
        self,
        lock: Lock,
        *,
        retry_period: float,
        clock: Clock,
        rng: random.Random,
        on_started: Callable[[], None],
        on_stopped: Callable[[], None],
    ) -> None:
        """`retry_period` is the time in seconds between two renewals, and between two looks at another's Lease."""
        self._lock = lock
        self._retry_period = retry_period
        self._clock = clock
        self._rng = rng
        self._on_started = on_started
        self._on_stopped = on_stopped
        self._stop = threading.Event()
        self._wake = threading.Event()

    def tell(self, lease: Object | None) -> None:
        """A watch says that the Lease is so (None: it is gone): look now."""
        if lease is not None:
            self._lock.told(lease)
        self._wake.set()

    def stop(self) -> None:
        """End; the Lease stays ours until `Lock.release`."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """The election's thread."""
        while self._stand_by():
            self._on_started()
            self._lead()
            if not self._stop.is_set():
                self._lock.lose()
            self._on_stopped()

    def _stand_by(self) -> bool:
        """Wait until the Lease is ours; False if we are to stop."""
        while not self._stop.is_set():
            # Half a period more than a renewal takes to come: while the watch tells of each, nobody needs to ask.
            if not self._lock.follows(1.5 * self._retry_period) and self._lock.attempt():
                return True
            pause = self._retry_period * self._rng.uniform(0.5, 1.0)
            self._pause(max(min(pause, self._lock.expires_in or pause), self._lock.asked_to_wait))
        return False

    def _lead(self) -> None:
        """Keep the Lease; returns when it is lost, or could not be renewed in time, or we are to stop."""
        failures = 0
        while not self._stop.is_set() and self._lock.term is not None:
            left = self._lock.renew_left
            if left <= 0.0:
                return
            # After a failure soon again, since by then the requests go to another API server.
            pause = self._retry_period
            if failures:
                pause = backoff(failures, self._rng, base=0.25, cap=self._retry_period)
            # What the API server asks for is granted, but the Lease is not lost over it without another try.
            pause = max(pause, min(self._lock.asked_to_wait, left / 2))
            self._rest(min(pause, left))
            if not self._stop.is_set() and self._lock.term is not None:
                failures = 0 if self._lock.attempt() else failures + 1

    def _rest(self, seconds: float) -> None:
        """A pause that ends early only if we are deposed or to stop, not with the news of our own renewal."""
        until = self._clock.monotonic() + seconds
        while not self._stop.is_set() and self._lock.term is not None:
            left = until - self._clock.monotonic()
            if left <= 0.0:
                return
            self._pause(left)

    def _pause(self, seconds: float) -> None:
        self._wake.wait(max(0.01, seconds))
        if not self._stop.is_set():
            self._wake.clear()


def _spec(lease: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return mapping(at(lease, "spec"))


def _transitions(spec: Mapping[str, Any]) -> int:
    count = spec.get("leaseTransitions")
    return count if isinstance(count, int) else 0


def _version(lease: Mapping[str, Any] | None) -> int:
    text = str(((lease or {}).get("metadata") or {}).get("resourceVersion", ""))
    return int(text) if text.isdecimal() else -1


def _micro_time(now: datetime) -> str:
    """A metav1.MicroTime: RFC 3339 in UTC with six digits of a second."""
    return now.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
