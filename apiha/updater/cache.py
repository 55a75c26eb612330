"""A local copy of a few objects that follows the API server: list, watch, and begin again when the watch is
lost.

The rules of the protocol:
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol

from apiha.clock import Clock, backoff
from apiha.updater.requests import ApiError, Object

GONE = 410
# API servers send a bookmark every minute, and the first after two (seen on 1.36): a watch that
# is silent for longer hangs.
_SILENCE = 180.0
_TRUSTED = 3  # watches in a row that fail at once, before their resourceVersion is no longer trusted
_LIVED = 5.0  # s: a watch that lived so long was none that fails at once

Restart = Literal["expired", "closed", "failed"]


class Source(Protocol):
    """What can be listed and watched."""

    def list(self) -> tuple[list[Object], str]:
        """The objects, and the resourceVersion to watch from."""

    def watch(
        self, resource_version: str, seconds: int, silence: float, on_open: Callable[[], None]
    ) -> Iterator[tuple[str, Object]]:
        """(type, object) of each event."""


def version(item: Mapping[str, Any]) -> int:
    """An object's resourceVersion as a number: comparable within one resource (KEP-5504); -1 if it is none."""
    text = str(item.get("metadata", {}).get("resourceVersion", ""))
    return int(text) if text.isdecimal() else -1


class Cache:
    """Objects by name. Thread-safe; `on_change` is called without the lock after each change."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._items: dict[str, Object] = {}
        self._synced = False
        self._deleted: dict[str, int] = {}  # name to the version of its deletion
        self._floor = -1  # the version of the last list: what the watch tells of the time before is in it
        self._steps = 0  # counts lists begun and objects put, to know what came after what
        self._put_at: dict[str, int] = {}
        self._filled_at = 0

    @property
    def synced(self) -> bool:
        """Whether it has ever been filled."""
        return self._synced

    def items(self) -> dict[str, Object]:
        """The objects as of now; do not change them."""
        with self._lock:
            return dict(self._items)

    def fill(self, source: Source) -> str:
        """List everything anew; returns the resourceVersion to watch from. Raises what `list` raises.

        Two threads may do so at once: lists are consistent reads, so the one that began later knows more. The
        versions alone do not decide, for they go back when etcd is restored from a backup.
        """
        with self._lock:
            self._steps += 1
            began = self._steps
        items, resource_version = source.list()
        fresh = {item["metadata"]["name"]: item for item in items}
        floor = int(resource_version) if resource_version.isdecimal() else -1
        with self._lock:
            if began < self._filled_at:
                return resource_version
            self._filled_at = began
            self._floor = floor
            # What was put since may have overtaken the list.
            fresh |= {
                name: item
                for name, item in self._items.items()
                if version(item) > floor and self._put_at.get(name, 0) > began
            }
            changed = not self._synced or {n: version(i) for n, i in fresh.items()} != {
                n: version(i) for n, i in self._items.items()
            }
            self._items = fresh
            self._put_at = {name: step for name, step in self._put_at.items() if name in fresh}
            self._deleted.clear()
            self._synced = True
        if changed:
            self._on_change()
        return resource_version

    def put(self, item: Object, *, read: bool = False) -> None:
        """Take a newer state of one object; an older one is ignored, as an answer may overtake the watch.

        `read` is for an answer of the API server itself: it counts even if the watch says that there is no
        such object, which it also does when the object merely lost the label that it is selected by.
        """
        name = item["metadata"]["name"]
        with self._lock:
            held = self._items.get(name)
            if held is not None and version(item) <= version(held):
                return
            if held is None and not read and version(item) <= max(self._floor, self._deleted.get(name, -1)):
                return
            self._items[name] = item
            self._steps += 1
            self._put_at[name] = self._steps
        self._on_change()

    def remove(self, item: Object) -> None:
        """The object is gone, or no longer of this collection; its version is that of its removal."""
        name = item["metadata"]["name"]
        with self._lock:
            held = self._items.get(name)
            if held is not None and version(held) > version(item):
                return
            self._items.pop(name, None)
            self._deleted[name] = version(item)
        self._on_change()

    def forget(self, name: str) -> None:
        """The API server says that there is no such object."""
        with self._lock:
            self._items.pop(name, None)
        self._on_change()


class Follower:
    """Keeps a cache equal to a source, in a thread of its own."""

    def __init__(
        self,
        source: Source,
        cache: Cache,
        clock: Clock,
        rng: random.Random,
        *,
        resync: float,
        on_restart: Callable[[Restart], None],
        on_error: Callable[[str, ApiError | None], None],
    ) -> None:
        """`resync` is the time in seconds after which everything is listed anew, however well the watch does.

        `on_restart` hears why a watch had to begin again, `on_error` every failure of "list" or "watch" and, with
        None, every success.
        """
        self._source = source
        self._cache = cache
        self._clock = clock
        self._rng = rng
        self._resync = resync
        self._on_restart = on_restart
        self._on_error = on_error
        self.connected = False

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop`.

        A watch that ends, in order or not, goes on from the last version that it told, as long as the API
        server still knows it (bookmarks see to that). If not (410 Gone), and when it is time, everything is
        listed anew.
        """
        resource_version: str | None = None
        until = 0.0
        failures = 0
        while not stop.is_set():
            began = self._clock.monotonic()
            restart: Restart = "closed"
            asked_to_wait = 0.0
            try:
                if resource_version is None or began >= until or failures >= _TRUSTED:
                    verb = "list"
                    resource_version = self._cache.fill(self._source)
                    self._on_error(verb, None)
                    # A tenth more or less, so that replicas and watchers do not list in step.
                    until = self._clock.monotonic() + self._resync * self._rng.uniform(0.9, 1.1)
                verb = "watch"
                seconds = max(1, round(until - self._clock.monotonic()))
                for kind, item in self._source.watch(resource_version, seconds, _SILENCE, self._opened):
                    resource_version = item.get("metadata", {}).get("resourceVersion") or resource_version
                    if kind == "DELETED":
                        self._cache.remove(item)
                    elif kind in ("ADDED", "MODIFIED"):
                        self._cache.put(item)
                    if stop.is_set():
                        return
                if self._clock.monotonic() >= until - 1.0:
                    continue  # its time was up, as asked for
            except ApiError as error:
                restart = "expired" if error.status == GONE else "failed"
                asked_to_wait = error.pause(0.0)
                if restart == "expired":
                    resource_version = None
                else:
                    self._on_error(verb, error)
            self.connected = False
            self._on_restart(restart)
            failures = 0 if self._clock.monotonic() - began > _LIVED else failures + 1
            # The first try after a loss comes soon, but not from every watcher in the same instant.
            stop.wait(max(asked_to_wait, backoff(failures, self._rng, base=0.05, cap=5.0)))

    def _opened(self) -> None:
        self.connected = True
        self._on_error("watch", None)
