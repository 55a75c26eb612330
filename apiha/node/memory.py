"""What a node remembers of its cluster between runs: the control planes it was told of, and which cluster it is.

Kept in `control-planes.json`, a cache: the configuration stands in for what is missing or damaged. Older releases wrote
the addresses alone; they still find them, and what they wrote is read.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from apiha import files
from apiha.endpoint import Endpoint, parse_ip, parse_port
from apiha.preview import Preview

FILE = "control-planes.json"  # in the state directory
MOST = 32  # addresses; no cluster has more control planes, and each is one more that a pin may have to try
KEPT = timedelta(days=30)  # a control plane that was away that long does not come back under its address
REFRESHED = timedelta(days=1)  # how old a time on the disk may get before a pass writes it anew
_LARGEST = 1 << 20  # bytes
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_UID = re.compile(r"[0-9A-Za-z-]{1,64}")


@dataclass(frozen=True)
class Seen:
    """A control plane, and when the cluster named it last (UTC)."""

    endpoint: Endpoint
    at: datetime


@dataclass(frozen=True)
class Cluster:
    """Which cluster this is: the UID of its namespace kube-system, and the fingerprint of its CA; None if unknown."""

    uid: str | None = None
    ca: str | None = None

    def differs(self, other: Cluster) -> bool:
        """Whether the two have different UIDs."""
        return None not in (self.uid, other.uid) and self.uid != other.uid

    def moved(self, other: Cluster) -> bool:
        """Whether the two have different CAs: the CA was replaced, or the node was made part of another cluster."""
        return None not in (self.ca, other.ca) and self.ca != other.ca


@dataclass(frozen=True)
class Memory:
    """What a node remembers. `seen` is newest first, at most `MOST`; `drained` are the addresses of control planes
    under maintenance, to be tried last; `damage` says why the file could not be used.
    """

    seen: tuple[Seen, ...] = ()
    cluster: Cluster = Cluster()
    drained: frozenset[str] = frozenset()
    damage: str | None = None

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The remembered control planes, newest first."""
        return tuple(seen.endpoint for seen in self.seen)

    def told(self, endpoints: Iterable[Endpoint], now: datetime) -> Memory:
        """The memory after the cluster named these control planes.

        They are added to what was known: one slice during maintenance must not make a node forget the others. Those
        that were not named for `KEPT` are forgotten, and the oldest of more than `MOST`.
        """
        named = dict.fromkeys(endpoints, now)
        # The clock may have been wrong: nobody was seen later than now, and those named now come before their equals.
        others = {seen.endpoint: min(seen.at, now) for seen in self.seen if seen.endpoint not in named}
        recent = _newest(Seen(endpoint, at) for endpoint, at in others.items() if now - at <= KEPT)
        return replace(self, seen=(*_newest(itertools.starmap(Seen, named.items())), *recent)[:MOST])

    def worth_saving(self, before: Memory) -> bool:
        """Whether the disk, which holds `before`, has to be written: not only because a few hours have passed."""
        old = {seen.endpoint: seen.at for seen in before.seen}
        return (
            before.damage is not None
            or self.cluster != before.cluster
            or self.drained != before.drained
            or set(self.endpoints) != set(old)
            or any(abs(seen.at - old[seen.endpoint]) > REFRESHED for seen in self.seen)
        )


def _newest(seen: Iterable[Seen]) -> tuple[Seen, ...]:
    return tuple(sorted(seen, key=lambda each: (_EPOCH - each.at, each.endpoint))[:MOST])


def load(state_dir: Path) -> Memory:
    """What an earlier run kept. An unusable file is an empty memory with `damage`; a missing one is empty."""
    path = state_dir / FILE
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
        written = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
        if len(data) > _LARGEST:
            raise ValueError(f"larger than {_LARGEST} bytes")
        document = json.loads(data)
        seen = [_read(entry, written) for entry in document["control_planes"]]
        cluster, drained = document.get("cluster"), document.get("drained")
    except (FileNotFoundError, NotADirectoryError):
        return Memory()
    except OSError as error:
        return Memory(damage=f"{path}: cannot be read: {error.strerror}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return Memory(damage=f"{path}: is damaged ({' '.join(str(error).split())[:100]})")
    return Memory(
        _newest({each.endpoint: each for each in seen}.values()),
        _read_cluster(cluster),
        _read_drained(drained),
    )


def save(state_dir: Path, memory: Memory, preview: Preview | None = None) -> None:
    """Keep the memory for the next run, or show that. Raises OSError."""
    document = {
        "control_planes": [
            {
                "address": seen.endpoint.address,
                "port": seen.endpoint.port,
                "last_seen": seen.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            for seen in memory.seen
        ],
        "cluster": {"uid": memory.cluster.uid, "ca": memory.cluster.ca},
        "drained": sorted(memory.drained),
    }
    path, data = str(state_dir / FILE), f"{json.dumps(document, indent=1)}\n".encode()
    if preview is not None:
        before, status = files.read(path)
        preview.file(path, None if status is None else before, data)
        return
    state_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(files.ChangedMeanwhileError):  # another run has just kept what it learned
        files.replace(path, data, files.read(path)[1])


def _read(entry: Any, written: datetime) -> Seen:
    """One control plane of the file; older releases wrote no time, it is then that of the file. Raises ValueError."""
    address, port, last_seen = entry["address"], entry["port"], entry.get("last_seen")
    if not isinstance(address, str) or isinstance(port, bool) or not isinstance(port, int):
        raise ValueError(f"not an address and a port: {entry!r}"[:80])
    return Seen(Endpoint(parse_ip(address), parse_port(port)), _time(last_seen) or written)


def _time(text: object) -> datetime | None:
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ") if isinstance(text, str) else None
    except ValueError:
        return None
    return moment.replace(tzinfo=timezone.utc) if moment else None


def _read_cluster(value: object) -> Cluster:
    if not isinstance(value, dict):
        return Cluster()
    uid, ca = value.get("uid"), value.get("ca")
    return Cluster(uid_or_none(uid), ca if isinstance(ca, str) and len(ca) <= 128 else None)


def _read_drained(value: object) -> frozenset[str]:
    """The drained addresses of the file; older releases wrote none."""
    if not isinstance(value, list):
        return frozenset()
    return frozenset(address for address in value[:MOST] if isinstance(address, str))


def uid_or_none(value: object) -> str | None:
    """A UID as Kubernetes makes them (RFC 4122 text, or whatever else looks harmless); None for anything else."""
    return value if isinstance(value, str) and _UID.fullmatch(value) else None
