"""Which API server the updater talks to.

Reads: the control planes that there are, and what probes of them say. Writes: nothing.

It starts with the one that its configuration names: in a Pod the Service `kubernetes` (KUBERNETES_SERVICE_HOST),
never the Service that it feeds. That Service keeps a dead control plane for 15 to 25 s, and a connection through it
may lead to the dead one: then the news of its death would wait for a time limit. So, as soon as it knows the control
planes, the updater talks to one of them directly, proven by the same probe as everywhere, and changes to another when
that one fails. Where none of them can be reached directly (a network policy, a proxy) it stays with its configuration.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from apiha.clock import Clock
from apiha.endpoint import Endpoint
from apiha.probe import ProbeResult, trial_order
from apiha.updater.credentials import CredentialFiles, CurrentProber

_RETURN_FAST = 2.0  # s between two looks for a better API server after the same failure


@dataclass(frozen=True)
class Server:
    """One way to the API: the configured one (`endpoint` None), or a control plane itself.

    `base` is what every path is appended to; `name` is what its certificate must carry, None for the URL's host.
    """

    endpoint: Endpoint | None
    base: str
    name: str | None

    def __str__(self) -> str:
        return str(self.endpoint) if self.endpoint is not None else self.base


class Servers:
    """Chooses the API server to talk to. Thread-safe."""

    def __init__(
        self,
        files: CredentialFiles,
        probe: CurrentProber,
        identity: str,
        clock: Clock,
        *,
        on_switch: Callable[[Server], None] = lambda _: None,
    ) -> None:
        """`identity` makes the order in which control planes are tried one of this replica's own."""
        self._files = files
        self._probe = probe
        self._identity = identity
        self._clock = clock
        self._on_switch = on_switch
        self._choosing = threading.Lock()
        self._planes: tuple[Endpoint, ...] = ()
        self._direct: Endpoint | None = None
        self._last_choice: tuple[Server, float] | None = None

    @property
    def current(self) -> Server:
        """Where requests go now."""
        return self._server(self._direct)

    def know(self, planes: Collection[Endpoint]) -> None:
        """The control planes there are; one that is gone is talked to no more."""
        self._planes = trial_order(self._identity, planes)
        current = self.current
        if current.endpoint is not None and current.endpoint not in planes:
            self._last_choice = None  # this is no failure that a moment's patience might cure
            self.leave(current)

    def settle(self) -> None:
        """Look for a control plane to talk to directly if there is none yet, or if it no longer proves itself.

        One that answers everything with HTTP 500 fails no request for want of an answer: only a probe tells.
        """
        current = self.current
        if current.endpoint is None or not self._probe(current.endpoint).health.usable:
            self.leave(current)

    def leave_endpoint(self, endpoint: Endpoint) -> None:
        """A probe of this control plane failed: if we talk to it, talk to another."""
        current = self.current
        if current.endpoint == endpoint:
            self.leave(current)

    def leave(self, server: Server) -> None:
        """`server` failed us: change to a control plane that proves itself now, else to the configured one."""
        with self._choosing:
            if server != self.current:
                return  # another thread has done it
            if self._last_choice is not None:
                chosen, at = self._last_choice
                if chosen == server and self._clock.monotonic() < at + _RETURN_FAST:
                    return
            proxied = self._files.current.proxy is not None
            planes = () if proxied else [plane for plane in self._planes if plane != server.endpoint]
            self._direct = self._first_usable(planes)
            chosen = self.current
            self._last_choice = chosen, self._clock.monotonic()
        if chosen != server:
            self._on_switch(chosen)

    def _first_usable(self, planes: Collection[Endpoint]) -> Endpoint | None:
        """The first to prove itself; all are asked at once, each for the probe's time limit at most."""
        results: queue.SimpleQueue[ProbeResult] = queue.SimpleQueue()
        for plane in planes:
            threading.Thread(target=lambda p=plane: results.put(self._probe(p)), daemon=True).start()
        for _ in planes:
            result = results.get()
            if result.health.usable:
                return result.endpoint
        return None

    def _server(self, endpoint: Endpoint | None) -> Server:
        if endpoint is not None:
            return Server(endpoint, f"https://{endpoint}", self._probe.host)
        credentials = self._files.current
        return Server(None, credentials.server, credentials.server_name)
