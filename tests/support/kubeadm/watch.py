"""Watches a node from the switch while something is done to the cluster: its condition, its Lease."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING

from tests.support.kubeadm.cluster import Lab

if TYPE_CHECKING:
    from typing_extensions import Self

_EVERY = 0.25  # seconds


@dataclass(frozen=True)
class Sight:
    """What was seen at a time (monotonic): the condition Ready, and the Lease's renewal by the node's clock."""

    at: float
    status: str
    renewed: float


class Watch:
    """Looks at a node four times a second while the context lasts; API servers that do not answer are passed over."""

    def __init__(self, lab: Lab, node: str) -> None:
        self._lab = lab
        self._node = node
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.sights: list[Sight] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        api = self._lab.new_api(timeout=1.0)
        while not self._ended.wait(_EVERY):
            try:
                sight = Sight(time.monotonic(), api.ready(self._node).status, api.lease(self._node))
            except ConnectionError:
                continue
            self.sights.append(sight)
        api.close()

    @property
    def gap(self) -> float:
        """The longest time between two renewals of the Lease, in seconds by the node's clock."""
        renewals = sorted({sight.renewed for sight in self.sights})
        return max((after - before for before, after in pairwise(renewals)), default=0.0)

    @property
    def not_ready(self) -> list[Sight]:
        """When the node was not Ready."""
        return [sight for sight in self.sights if sight.status != "True"]
