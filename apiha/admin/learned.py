"""How many nodes know of a control plane, and that it is drained, by what their installers' Pods say. Pure.

Nothing in the cluster's API knows it. Where `apiha manifests --installer` was applied, the log of each of its Pods says
every few minutes what its node knows (`apiha.known`), and an administrator may read these logs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from apiha.admin.installer import REMOVE, by_node
from apiha.admin.objects import Pod
from apiha.admin.planes import Plane
from apiha.known import Known

MOST = 500  # logs: each is a run of kubectl, 60 ms of a CPU
_CONTAINER = "installer"  # manifests/installer.yaml
# A Pod says it after every run on its node: every five minutes, and a run takes five more at most. The last lines are
# enough, since it says it last. kubelet counts `limitBytes` from the first of these lines, so it must not be short.
_RECENT, _LINES, _BYTES = 900, 20, 65536  # seconds, lines, bytes
_NAMED = 3  # nodes in one sentence


@dataclass(frozen=True)
class Count:
    """Of the nodes that were asked, how many know a control plane, and how many hold it as drained."""

    knowing: int
    drained: int


@dataclass(frozen=True)
class Learned:
    """What the Pods of the installer say.

    `answers` are what the nodes know whose logs could be read; `unread` has the others, node to reason, which count as
    knowing nothing. `ready` is how many nodes have a ready Pod, `unready` how many have one that is not ready and was
    not asked. `problem` says why not even the Pods could be listed.
    """

    answers: tuple[Known, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    ready: int = 0
    unready: int = 0
    problem: str = ""

    @property
    def asked(self) -> int:
        """How many nodes the counts are of."""
        return len(self.answers) + len(self.unread)

    def of(self, plane: Plane) -> Count | None:
        """The counts of one control plane; None if no node has said anything."""
        if not self.answers:
            return None
        return Count(
            sum(plane.endpoint in known.control_planes for known in self.answers),
            sum(plane.endpoint.address in known.drained for known in self.answers),
        )

    def why_unknown(self) -> str | None:
        """Why there are no counts; None if there are."""
        if self.answers:
            return None
        if self.problem:
            return self.problem
        if not self.ready and not self.unready:
            return "no node has the installer (`apiha manifests --installer`), and nothing else in the cluster knows"
        if not self.ready:
            return f"the installer is not ready on any of its {_nodes(self.unready)}"
        return self._unread() or "no log could be read in time"

    def lines(self) -> list[str]:
        """Where the counts come from and what they leave out, or why there are none."""
        if (why := self.why_unknown()) is not None:
            return [f"LEARNED is not known: {why}"]
        whom = f"the {_nodes(self.ready)} whose installer is ready"
        if self.asked < self.ready:
            whom = f"{self.asked} of {whom} (the others were not asked)"
        found = [
            f"LEARNED: how many of {whom} know the address; of a drained one, know that it is drained. A node learns "
            "and says so every five minutes, so this is up to ten minutes old"
        ]
        if self.unread:
            found.append(f"counted as knowing nothing: {self._unread()}")
        if self.unready:
            found.append(f"not counted: {_nodes(self.unready)} whose installer is not ready")
        return found

    def _unread(self) -> str:
        """Whose logs say nothing, and why the first of them."""
        if not self.unread:
            return ""
        names = sorted(self.unread)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        first = "the first: " if len(set(self.unread.values())) > 1 else ""
        return f"{', '.join(names[:_NAMED])}{more} ({first}{self.unread[names[0]]})"


def asked_of(pods: Iterable[Pod]) -> tuple[tuple[Pod, ...], Learned]:
    """The Pods whose logs are to be read, at most `MOST`, and what is known before that.

    Of more than that, or where the time does not suffice, the first ones are a fair sample, and the same each time: the
    order is that of a hash of the node's name. An installer that uninstalls is none.
    """
    keeping = [pod for pod in by_node(pods).values() if REMOVE not in pod.arguments]
    ready = sorted((pod for pod in keeping if pod.ready), key=_place)
    return tuple(ready[:MOST]), Learned(ready=len(ready), unready=len(keeping) - len(ready))


def log_path(pod: Pod) -> str:
    """The end of the Pod's log, at the API server."""
    return (
        f"/api/v1/namespaces/{quote(pod.namespace, safe='')}/pods/{quote(pod.name, safe='')}/log"
        f"?container={_CONTAINER}&sinceSeconds={_RECENT}&tailLines={_LINES}&limitBytes={_BYTES}"
    )


SAYS_NOTHING = f"its log says nothing of that within the last {_RECENT // 60} minutes"


def _place(pod: Pod) -> bytes:
    return hashlib.sha256(pod.node.encode()).digest()


def _nodes(count: int) -> str:
    return f"{count} node{'' if count == 1 else 's'}"
