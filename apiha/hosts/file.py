"""One hosts file on a disk: read, pinned, unpinned. Writers take turns; a killed write is put right by the next."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from apiha import files
from apiha.errors import HostsFileError
from apiha.hosts.adopt import Foreign, ForeignLine
from apiha.hosts.errors import BlockChanged, explanation
from apiha.hosts.journal import Journal, escaped, journals_of, record, torn
from apiha.hosts.lines import HostsLine
from apiha.hosts.rivalry import MAX_PAUSE, Rivalry, checksum, load, save
from apiha.hosts.text import Edit, current, remove, render, splice
from apiha.log import Reporter
from apiha.paths import HOSTS_FILE, STATE_DIR
from apiha.preview import Preview

_ATTEMPTS = 20  # how often to start anew when another program changes the file meanwhile


_Decide = Callable[[bytes, bool], Edit]  # from the bytes, and whether there is no file


@dataclass(frozen=True, slots=True)
class Change:
    """What a write did.

    `written`: the bytes changed. `adopted`, `repeated`, `dropped`: see `Edit`. `recovered`: one line about a write that
    an earlier run, killed, did not finish. `fight`: one line when it turns out that another program changes the block
    again and again.
    """

    written: bool
    adopted: tuple[ForeignLine, ...] = ()
    repeated: tuple[ForeignLine, ...] = ()
    dropped: tuple[HostsLine, ...] = ()
    recovered: str | None = None
    fight: str | None = None

    def report(self, report: Reporter, path: Path) -> None:
        """Log what the write did besides its purpose: lines commented out, lines lost, an earlier write put right."""
        for told in filter(None, (self.recovered, self.fight)):
            report.warning(told)
        for line in self.adopted:
            report.warning(
                f"{path}:{line.number}: commented out until `apiha unpin`: {line.text}", line=line.number
            )
        for line in self.repeated:
            report.warning(
                f"{path}:{line.number}: removed, it is adopted already: {line.text}", line=line.number
            )
        for lost in self.dropped:
            report.warning(
                f"{path}:{lost.number}: dropped from the block, it was not apiha's: {lost.text}",
                line=lost.number,
            )


class HostsFile:
    """A hosts file on disk. Reading takes no lock; writers come one at a time.

    `path` may be a symlink: the file that it leads to is written. `state_dir` keeps the journal of a write in
    place if the file's own folder is read-only. `clock` and `sleep` (seconds) serve the wait for the lock,
    `now` (seconds since 1970) tells how old a leftover is. With a `preview`, what would be written is shown, and read
    from then on; nothing is written or locked.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = HOSTS_FILE,
        *,
        state_dir: str | os.PathLike[str] = STATE_DIR,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
        preview: Preview | None = None,
    ) -> None:
        self.path = Path(path)
        self.state_dir = Path(state_dir)
        self._preview = preview
        self._shown: Edit | None = None  # the last one
        self._clock = clock
        self._sleep = sleep
        self._now = now

    def read(self) -> bytes:
        """The file's bytes; none if it does not exist. Raises HostsFileError, NotPermitted."""
        with self._explained():
            return self._shown.data if self._shown else files.read(os.path.realpath(self.path))[0]

    def interrupted(self) -> Path | None:
        """The backup left by a write in place that was killed; the next update settles it. Normally None."""
        journals = journals_of(os.path.realpath(self.path), self.state_dir)
        return next((journal.backup for journal in journals if journal.exists()), None)

    def rivalry(self) -> Rivalry:
        """How often another program changed the block in the last hour, and apiha put it back. Takes no lock."""
        return load(self._score(os.path.realpath(self.path))).at(self._now())

    def pin(
        self,
        host: str,
        addresses: Sequence[str],
        on_conflict: Foreign = "refuse",
        *,
        expected: Sequence[str] | None = None,
        lock_timeout: float = 10.0,
    ) -> Change:
        """Write the block (see `splice`). Raises HostsConflict, HostsFileError, NotPermitted.

        `expected`: the addresses of the block that this was decided from (none if there was no block). They are
        compared under the lock: if the block gives others by now, BlockChanged is raised and nothing is written. None
        writes over whatever is there. `lock_timeout` in seconds.
        """
        render(host, addresses)  # what can never be written fails before anything is locked

        def change(data: bytes, missing: bool) -> Edit:
            if expected is not None and (now := current(data, host).addresses) != tuple(expected):
                raise BlockChanged(self.path, now)
            return splice(data, host, addresses, on_conflict, path=str(self.path), missing=missing)

        return self._apply(change, lock_timeout)

    def unpin(self, host: str | None = None, *, lock_timeout: float = 10.0) -> Change:
        """Remove the block, restore adopted lines (see `remove`). Raises HostsFileError, NotPermitted.

        A file that was made for the block and holds nothing else is removed with it.
        """
        return self._apply(lambda data, _missing: remove(data, host), lock_timeout)

    def _apply(self, change: _Decide, lock_timeout: float) -> Change:
        target = os.path.realpath(self.path)
        deadline = self._clock() + lock_timeout
        with self._explained():
            if self._preview is not None:
                return self._show(target, change, self._preview)
            locked, what = self._open_lock(target)
            try:
                self._lock(locked, what, deadline)
                recovered = self._recover(target, deadline)
                return replace(self._write(target, change, deadline), recovered=recovered)
            finally:
                os.close(locked)

    def _show(self, target: str, change: _Decide, preview: Preview) -> Change:
        """What a write would do to the file, or to what was shown of it last."""
        data, status = files.read(target)
        before, missing = (self._shown.data, self._shown.gone) if self._shown else (data, status is None)
        edit = change(before, missing)
        if edit.data == before:
            return Change(written=False)
        preview.file(self.path, None if missing else before, None if edit.gone else edit.data)
        self._shown = edit
        return Change(True, edit.adopted, edit.repeated, edit.dropped)

    def _open_lock(self, target: str) -> tuple[int, str]:
        """What writers of this file lock: a descriptor, and its name.

        A file of our own in `state_dir`, which only its owner can open: whoever may read a file or a folder may also
        flock(2) it, so any user of the machine could keep its root from writing /etc/hosts by a lock on /etc. Where
        there is no `state_dir` that we may write (apiha is not installed, or we are not root) the hosts file's
        folder has to do.
        """
        own = self.state_dir / f"{escaped(target)}.lock"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(own, flags, 0o600), str(own)
        except OSError:
            folder = os.path.dirname(target)
            return os.open(folder, os.O_RDONLY | os.O_DIRECTORY), folder

    def _write(self, target: str, change: _Decide, deadline: float) -> Change:
        for _ in range(_ATTEMPTS):
            data, status = files.read(target)
            edit = change(data, status is None)
            if edit.data == data:
                return Change(written=False)
            try:
                if edit.gone and status is not None:
                    files.remove(target, status, data)
                else:
                    files.replace(target, edit.data, status, data)
            except files.ChangedMeanwhileError:
                continue
            except OSError as error:
                if status is None or error.errno not in files.NO_RENAME:
                    raise
                return self._write_in_place(target, change, deadline, error)
            return self._written(target, data, edit)
        score = self._score(target)
        save(score, load(score).lost(self._now()))
        raise HostsFileError(
            f"{self.path} keeps being changed by another program: stop that one, then run again"
        )

    def _written(self, target: str, before: bytes, edit: Edit) -> Change:
        """What is to be told of a write; counts it where another program had changed the block."""
        score = self._score(target)
        foreign = bool(edit.adopted or edit.repeated)
        rivalry = load(score).after(
            self._now(), checksum(before), checksum(edit.data) or None, foreign=foreign
        )
        fight = None
        if rivalry.fighting and not rivalry.said:
            rivalry = replace(rivalry, said=True)
            fight = f"{self.path}: {rivalry.words}: find that program; passes wait up to {MAX_PAUSE:.0f} s from now on"
        save(score, rivalry)
        return Change(True, edit.adopted, edit.repeated, edit.dropped, fight=fight)

    def _score(self, target: str) -> Path:
        return self.state_dir / f"{escaped(target)}.changes.json"

    def _write_in_place(self, target: str, change: _Decide, deadline: float, no_rename: OSError) -> Change:
        try:
            file = os.open(target, os.O_RDWR | os.O_NOFOLLOW)
        except OSError as error:
            raise (no_rename if error.errno in files.NO_RENAME else error) from None
        try:
            # Two containers may share one file by bind mounts: their folders, and so their locks, differ.
            self._lock(file, target, deadline)
            data = files.read_open(file)
            edit = change(data, False)
            if edit.data == data:
                return Change(written=False)
            with files.signals_held():
                mode = stat.S_IMODE(os.fstat(file).st_mode)
                journal = record(target, self.state_dir, data, edit.data, mode)
                try:
                    files.overwrite(file, edit.data)
                except OSError:
                    self._put_back(file, data, journal)
                    raise
                journal.discard()
            return self._written(target, data, edit)
        finally:
            os.close(file)

    def _put_back(self, file: int, data: bytes, journal: Journal) -> None:
        try:
            files.overwrite(file, data)  # into blocks that the file has already: a full disk does not matter
        except OSError as error:
            raise HostsFileError(
                f"{self.path} is damaged, writing failed halfway ({error.strerror}): "
                f"copy {journal.backup} over it, which has its bytes of before"
            ) from error
        journal.discard()

    def _recover(self, target: str, deadline: float) -> str | None:
        """Settle what killed runs left behind; says so if one was killed while it wrote in place."""
        for journal in journals_of(target, self.state_dir):
            files.sweep(str(journal.folder / journal.name), now=self._now())
            if not journal.exists():
                if os.path.lexists(journal.intended):  # killed before the first byte was written
                    journal.discard()
                continue
            before, after = journal.load()
            data = files.read(target)[0]
            if data in (before, after):
                journal.discard()
            elif torn(data, before, after):
                self._restore(target, before, journal, deadline)
                return (
                    f"{self.path} was half written by a run that was killed: its bytes of before are restored"
                )
            else:
                return (
                    f"a run was killed while it wrote {self.path}, and another program wrote it since: it is "
                    f"left as it is; the bytes of before are in {journal.keep()}: compare, then remove that"
                )
        return None

    def _restore(self, target: str, data: bytes, journal: Journal, deadline: float) -> None:
        file = os.open(target, os.O_RDWR | os.O_NOFOLLOW)
        try:
            self._lock(file, target, deadline)
            with files.signals_held():
                files.overwrite(file, data)
                journal.discard()
        finally:
            os.close(file)

    def _lock(self, descriptor: int, what: str, deadline: float) -> None:
        try:
            files.lock(descriptor, deadline, self._clock, self._sleep)
        except files.LockTimeoutError as error:
            raise HostsFileError(
                f"{what} is locked by {error.holder}, so {self.path} was not touched: "
                "wait for that process or end it, then run again"
            ) from None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an OSError into one line that says what, where, and what to do."""
        try:
            yield
        except OSError as error:
            raise explanation(error, self.path) from error
