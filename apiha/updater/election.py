"""Leader election: the official client's, with what it lacks.

What kubernetes.leaderelection (37.0) does, and what is added around it:

- It measures leases with `time.time()`. A clock that is set forward would take a living leader's lease; one
  set back would leave a dead leader's alone for as long. `Lock` measures with CLOCK_BOOTTIME, which nobody
  sets and which goes on while the machine sleeps, refuses what came too early and lets pass what is due.
- It polls every `retry_period` and sleeps in between. `Election` can be woken, which a watch of the Lease
  does: a release is seen at once, and an expiry at its own moment.
- It has no end and no release. `Lock.release` does what client-go does: no holder, and a duration of a
  second.
- It lets network errors through, which end its loop. `FailoverApiClient` makes them the ApiException that it
  expects.
- It says nothing of how long the lease is good for. `Lock.write_window` does.
- It ends the process (`sys.exit`) on settings that it does not like. `Settings` says so before.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.leaderelection.resourcelock import leaselock

from apiha.updater.kube import ApiError

# The library's types are unknown to mypy.
_Config: Any = electionconfig.Config
_LeaderElection: Any = leaderelection.LeaderElection
_LeaseLock: Any = leaselock.LeaseLock
_LATE = "the lease was not renewed in time"


def boot_time() -> float:
    """Seconds on a clock that nobody sets and that goes on while the machine sleeps: clock_gettime(2)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lock(_LeaseLock):  # type: ignore[misc]
    """A Lease, held or not. The election's thread writes; others read `write_window` and `term`."""

    def __init__(
        self,
        api_client: client.ApiClient,
        name: str,
        namespace: str,
        identity: str,
        *,
        lease_duration: float,
        renew_deadline: float,
        now: Callable[[], float] = boot_time,
        on_error: Callable[[str, ApiError | None], None] = lambda _verb, _error: None,
    ) -> None:
        super().__init__(name, namespace, identity)
        self.api_instance = _Told(client.CoordinationV1Api(api_client), on_error)
        self._lease_duration = lease_duration
        self._renew_deadline = renew_deadline
        self._now = now
        self._mutex = threading.Lock()
        self._state: tuple[Any, ...] | None = None  # the foreign lease as last seen
        self._state_since = 0.0
        self._others_duration = 0.0
        self._holder: str | None = None
        self._renewed: float | None = None  # when the request of the last good renewal was sent
        self._term: str | None = None
        self._abstains_until = float("-inf")
        self.why_lost = _LATE  # why the last term ended, for the log

    # ----------------------------------------------------------------------- what the library calls

    def get(self, name: str, namespace: str) -> tuple[bool, Any]:
        """The Lease's record, or why not."""
        found, answer = super().get(name, namespace)
        if found:
            self._observe(self.lease_reference.spec)
        return found, answer

    def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """The first Lease there is."""
        if self.abstaining:
            return False
        sent = self._now()
        done = bool(super().create(name, namespace, election_record))
        if done:
            self._held(sent)
        return done

    def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        """Renew, or take what nobody holds any more; the resourceVersion of the last `get` guards it."""
        if self.abstaining or not self.free_or_mine:
            return False  # the library's clock believes it has expired; ours does not
        sent = self._now()
        done = bool(super().update(name, namespace, updated_record))
        if done:
            self._held(sent)
        return done

    def get_lease_spec(self, leader_election_record: LeaderElectionRecord, current_spec: Any = None) -> Any:
        """The Lease's spec, with `leaseTransitions` counted, which the library leaves alone."""
        before = current_spec.holder_identity if current_spec else None
        spec = super().get_lease_spec(leader_election_record, current_spec)
        if before != leader_election_record.holder_identity:
            spec.lease_transitions = (spec.lease_transitions or 0) + 1
        return spec

    # ---------------------------------------------------------------------------------- what we add

    def _observe(self, spec: Any) -> None:
        """Note the state of the Lease, which a consistent read has just told."""
        holder = (spec.holder_identity or None) if spec else None
        state = (holder, spec.renew_time, spec.lease_transitions) if spec else ()
        with self._mutex:
            if state != self._state:
                self._state, self._state_since = state, self._now()
            self._holder = holder
            self._others_duration = float((spec.lease_duration_seconds if spec else None) or 0)
            if holder != self.identity:
                if self._term is not None:
                    self.why_lost = f"{holder} does" if holder else "somebody emptied the Lease"
                self._renewed, self._term = None, None

    def _held(self, sent: float) -> None:
        with self._mutex:
            self._holder = self.identity
            self._renewed = sent
            if self._term is None:
                self._term = f"{self.identity}/{secrets.token_hex(4)}"

    @property
    def free_or_mine(self) -> bool:
        """Whether the Lease may be taken: nobody's, our own, or unchanged for longer than it lasts."""
        return self.expires_in <= 0.0

    @property
    def expires_in(self) -> float:
        """Seconds until somebody else's Lease ends, if it is not renewed; 0 if it is free or ours."""
        with self._mutex:
            if self._holder in (None, self.identity):
                return 0.0
            ends = self._state_since + max(self._others_duration, self._lease_duration)
            return max(0.0, ends - self._now())

    @property
    def holder(self) -> str | None:
        """Who holds the Lease, as far as we know."""
        return self._holder

    @property
    def term(self) -> str | None:
        """A name for this time of leading: our identity and a random number; None if we do not lead."""
        with self._mutex:
            return self._term

    @property
    def renew_left(self) -> float:
        """Seconds left to renew in before we must count as deposed."""
        with self._mutex:
            return 0.0 if self._renewed is None else self._renewed + self._renew_deadline - self._now()

    def write_window(self, term: str) -> float | None:
        """Seconds until the Lease of this term ends for others; None if no write may begin any more."""
        with self._mutex:
            if self._renewed is None or self._term != term:
                return None
            age = self._now() - self._renewed
            return self._lease_duration - age if age < self._renew_deadline else None

    def confirm(self) -> bool:
        """Ask the API server, by a consistent read, whether the Lease is ours; if not, count as deposed.

        For the one decision in which no clock is trusted: see the package's docstring. Raises ApiError.
        """
        try:
            spec = self.api_instance.read_namespaced_lease(self.name, self.namespace).spec
        except ApiException as error:
            if error.status != 404:
                raise ApiError.of(error) from None
            spec = None
        holder = (spec.holder_identity or None) if spec is not None else None
        if holder != self.identity:
            self.lose(f"{holder} does" if holder else "somebody emptied the Lease")
        return bool(holder == self.identity)

    def lose(self, why: str | None = None) -> None:
        """Count as deposed, whatever the Lease says."""
        with self._mutex:
            if self._term is not None:
                self.why_lost = why or _LATE
            self._renewed, self._term = None, None

    def abstain(self, why: str) -> bool:
        """Let the Lease go, and do not ask for it for as long as it lasts, so that another replica may lead.

        Returns whether it was let go. No write may be under way.
        """
        with self._mutex:
            self._abstains_until = self._now() + self._lease_duration
        return self.release(why)

    @property
    def abstaining(self) -> bool:
        """Whether we leave the Lease to others for now."""
        with self._mutex:
            return self._now() < self._abstains_until

    def release(self, why: str | None = None) -> bool:
        """Let the Lease go, if it is ours, so that another replica need not wait for its end; whether it was
        done.
        """
        with self._mutex:
            mine = self._renewed is not None and self._holder == self.identity
        self.lose(why)
        for _ in range(2 if mine else 0):  # twice, in case a last renewal comes in between
            try:
                # Read it anew: the library keeps the state from before its last update.
                lease = self.api_instance.read_namespaced_lease(self.name, self.namespace)
                if lease.spec is None or lease.spec.holder_identity != self.identity:
                    return False
                lease.spec.holder_identity = None
                lease.spec.lease_duration_seconds = 1
                self.api_instance.replace_namespaced_lease(
                    name=self.name, namespace=self.namespace, body=lease
                )
                return True
            except ApiException as error:
                if error.status != 409:
                    return False  # then it ends by itself
        return False


class _Told:
    """The generated API, telling how each request went: the library keeps that to itself."""

    def __init__(
        self, api: client.CoordinationV1Api, on_error: Callable[[str, ApiError | None], None]
    ) -> None:
        self._api = api
        self._on_error = on_error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._api, name)
        verb = {"read": "get", "replace": "update"}.get(name.partition("_")[0], name.partition("_")[0])

        def told(*arguments: Any, **options: Any) -> Any:
            try:
                answer = function(*arguments, **options)
            except ApiException as error:
                if error.status not in (
                    404,
                    409,
                ):  # absent, and changed since: both are the library's daily bread
                    self._on_error(verb, ApiError.of(error))
                raise
            self._on_error(verb, None)
            return answer

        return told


class Election(_LeaderElection):  # type: ignore[misc]
    """Runs for leader until `stop`; leading, losing and running again, as often as it takes."""

    def __init__(
        self,
        lock: Lock,
        *,
        lease_duration: float,
        renew_deadline: float,
        retry_period: float,
        rng: random.Random,
        on_started: Callable[[], None],
        on_stopped: Callable[[], None],
    ) -> None:
        self._lock = lock
        super().__init__(
            _Config(lock, int(lease_duration), renew_deadline, retry_period, lambda: None, on_stopped)
        )
        self._retry_period = retry_period
        self._rng = rng
        self._on_started = on_started
        self._stop = threading.Event()
        self._wake = threading.Event()

    def wake(self) -> None:
        """Something about the Lease changed: look now."""
        self._wake.set()

    def stop(self) -> None:
        """End; the Lease stays ours until `Lock.release`."""
        self._stop.set()
        self._wake.set()

    def run_until_stopped(self) -> None:
        """The election's thread."""
        while not self._stop.is_set():
            self.run()

    def acquire(self) -> bool:
        """Wait until the Lease is ours; False if we are to stop."""
        while not self._stop.is_set():
            if self.try_acquire_or_renew():
                self._on_started()
                return True
            self._lock.lose()
            expires = self._lock.expires_in
            self._pause(min(self._retry_period, expires) if expires else self._jittered())
        return False

    def renew_loop(self, leading_failed: object = None) -> None:  # noqa: ARG002 (the library's signature)
        """Keep the Lease; returns when it is lost, or could not be renewed in time, or we are to stop."""
        while True:
            self._pause(self._retry_period, wakeable=False)
            if self._stop.is_set():
                return
            while not self.try_acquire_or_renew():
                if self._lock.holder != self._lock.identity or self._lock.renew_left <= 0.0:
                    self._lock.lose()
                    return
                self._pause(min(self._retry_period, self._lock.renew_left), wakeable=False)
                if self._stop.is_set():
                    return

    @property
    def observed_time_milliseconds(self) -> int:
        """When the library believes to have seen the Lease change: long ago if it may be taken, else just
        now.
        """
        return 0 if self._lock.free_or_mine else int(time.time() * 1000)

    @observed_time_milliseconds.setter
    def observed_time_milliseconds(self, _: int) -> None:
        """The library's own reading of the wall clock is of no use."""

    def _jittered(self) -> float:
        return self._retry_period * self._rng.uniform(0.5, 1.0)

    def _pause(self, seconds: float, *, wakeable: bool = True) -> None:
        event = self._wake if wakeable else self._stop
        event.wait(max(0.01, seconds))
        if not self._stop.is_set():
            self._wake.clear()
