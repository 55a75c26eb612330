"""Another program that takes the block away as often as apiha puts it back: counted, told, slowed down.

One that does so once (an editor, cloud-init at a boot) does not matter. The count is kept in the state directory, in a
small file that may be lost: what cannot be read there counts as nothing.
"""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from apiha.hosts.text import parse

WINDOW = 3600.0  # seconds that a change counts
FIGHT = 10  # changes within WINDOW that make it a fight
MAX_PAUSE = 30.0  # seconds; apiha-reconcile.service has a minute for the pause and the pass
_MOST = 500  # changes that are kept; more is a damaged file


@dataclass(frozen=True, slots=True)
class Rivalry:
    """Who changed the block when, in seconds since 1970, oldest first.

    `theirs`: the block was not what apiha had written, or a line for its host was there again. `ours`: apiha put that
    right. `wrote`: a checksum of the block that apiha wrote last; None if it has not written one. `said`: whether this
    fight has been logged.
    """

    theirs: tuple[float, ...] = ()
    ours: tuple[float, ...] = ()
    wrote: int | None = None
    said: bool = False

    @property
    def fighting(self) -> bool:
        """Whether two programs take turns."""
        return len(self.theirs) >= FIGHT

    @property
    def pause(self) -> float:
        """Seconds to wait before the next pass: doubles with each change of a fight, up to MAX_PAUSE."""
        rounds = len(self.theirs) - FIGHT
        return 0.0 if rounds < 0 else min(MAX_PAUSE, 2.0 ** min(rounds, 10))

    @property
    def words(self) -> str:
        """The score, for people."""
        return (
            f"another program changed the block {len(self.theirs)} times in the last hour, apiha put it back "
            f"{len(self.ours)} times"
        )

    def at(self, now: float) -> Rivalry:
        """What of it counts at `now`; a fight that is over may be said again when there is another one."""
        theirs, ours = (
            tuple(moment for moment in moments if 0 <= now - moment < WINDOW)[-_MOST:]
            for moments in (self.theirs, self.ours)
        )
        return replace(self, theirs=theirs, ours=ours, said=self.said and len(theirs) >= FIGHT)

    def after(self, now: float, found: int, wrote: int | None, *, foreign: bool = False) -> Rivalry:
        """The score after a write: apiha found this block (a checksum), or a `foreign` line, and `wrote` that one.

        `wrote` is None after unpin: the next pin begins anew.
        """
        counted = self.at(now)
        if self.wrote is not None and wrote is not None and (found != self.wrote or foreign):
            counted = replace(counted, theirs=(*counted.theirs, now), ours=(*counted.ours, now))
        return replace(counted, wrote=wrote)

    def lost(self, now: float) -> Rivalry:
        """The score after a write that the other program never let through."""
        counted = self.at(now)
        return replace(counted, theirs=(*counted.theirs, now))


def checksum(data: bytes) -> int:
    """A checksum of the blocks in a hosts file, 0 for none; it tells changes apart and protects from nobody."""
    return zlib.crc32(b"".join(block.data for block in parse(data).blocks))


def load(path: Path) -> Rivalry:
    """What the file says; nothing if there is no such file, or if it is damaged."""
    try:
        document = json.loads(path.read_bytes())
        theirs, ours = (
            tuple(sorted(float(moment) for moment in document[key][-_MOST:])) for key in ("theirs", "ours")
        )
        wrote = document["wrote"]
        return Rivalry(theirs, ours, None if wrote is None else int(wrote), bool(document["said"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Rivalry()


def save(path: Path, rivalry: Rivalry) -> None:
    """Keep it. Only under the hosts file's lock. A disk that does not take it is no error: nothing depends on it."""
    document = {
        "theirs": rivalry.theirs,
        "ours": rivalry.ours,
        "wrote": rivalry.wrote,
        "said": rivalry.said,
    }
    temporary = path.with_name(f"{path.name}.new")
    with suppress(OSError):
        temporary.touch(0o600)
        temporary.write_text(f"{json.dumps(document)}\n")
        os.replace(temporary, path)
