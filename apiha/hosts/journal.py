"""The journal of a write in place: the bytes of before and after, so that a killed write can be put right.

A hosts file that is a mount point of its own cannot be replaced by a rename. It is written in place then, and a kill
can leave it torn.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from apiha import files
from apiha.errors import HostsFileError, NotPermitted


@dataclass(frozen=True, slots=True)
class Journal:
    """The bytes before (`backup`) and after (`intended`) a write in place, on the disk while it runs.

    It takes both to tell a torn file from one that another program wrote after the kill (a container runtime
    writes /etc/hosts anew at each start): that one must not be undone.
    """

    folder: Path
    name: str

    @property
    def backup(self) -> Path:
        """The bytes before; there exactly while a write is under way or was killed."""
        return self.folder / f"{self.name}.apiha-backup"

    @property
    def intended(self) -> Path:
        """The bytes after."""
        return self.folder / f"{self.name}.apiha-intended"

    def exists(self) -> bool:
        """Whether a write was begun and not finished."""
        return os.path.lexists(self.backup)

    def record(self, before: bytes, after: bytes, mode: int) -> None:
        """Keep both, before the first byte is written. Raises OSError."""
        # The backup comes last and goes first: where it is, the other one is too.
        try:
            for path, data in ((self.intended, after), (self.backup, before)):
                files.write_whole(str(path), data, lambda descriptor: os.fchmod(descriptor, mode))
        except BaseException:
            with suppress(OSError):
                self.discard()
            raise

    def load(self) -> tuple[bytes, bytes]:
        """(before, after). Raises OSError: EBADF if another user made those files.

        In a folder like /tmp anybody could, to have them written over the hosts file.
        """
        for path in (self.backup, self.intended):
            status = files.status_of(str(path))
            if status is None:
                continue  # somebody removed it: `read` says no bytes
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
                raise OSError(
                    errno.EBADF, "not a backup that apiha made: look at it, then remove it", str(path)
                )
        return files.read(str(self.backup))[0], files.read(str(self.intended))[0]

    def discard(self) -> None:
        """The file is whole: forget both."""
        for path in (self.backup, self.intended):
            # On a read-only file system unlink(2) says EROFS even for what is not there.
            if os.path.lexists(path):
                path.unlink()
        files.sync_folder(str(self.folder))

    def keep(self) -> Path:
        """Put the backup where no later run looks for it; returns where."""
        kept = self.folder / f"{self.name}.apiha-saved"
        self.backup.rename(kept)
        self.discard()
        return kept


def torn(data: bytes, before: bytes, after: bytes) -> bool:
    """Whether writing `after` over `before`, stopped anywhere, can have left `data`.

    Then each byte is from the one or the other, or NUL (a block that a power failure left unwritten).
    """
    if not min(len(before), len(after)) <= len(data) <= max(len(before), len(after)):
        return False
    step = 4096
    for start in range(0, len(data), step):
        part = data[start : start + step]
        old, new = before[start : start + len(part)], after[start : start + len(part)]
        if part not in (old, new) and any(
            byte and byte not in (*old[index : index + 1], *new[index : index + 1])
            for index, byte in enumerate(part)
        ):
            return False
    return True


def journals_of(target: str, state_dir: Path) -> tuple[Journal, Journal]:
    """The two places where the journal of a hosts file may be: beside it, and in the state directory."""
    folder, name = os.path.split(target)
    return Journal(Path(folder), name), Journal(state_dir, escaped(target))


def record(target: str, state_dir: Path, before: bytes, after: bytes, mode: int) -> Journal:
    """Begin a journal beside the file, or in the state directory if the file's folder cannot be written.

    Raises OSError, and HostsFileError or NotPermitted if neither can keep it.
    """
    beside, in_state_dir = journals_of(target, state_dir)
    try:
        beside.record(before, after, mode)
        return beside
    except OSError as error:
        if error.errno not in files.NO_RENAME:
            raise
    try:
        in_state_dir.folder.mkdir(parents=True, exist_ok=True)
        in_state_dir.record(before, after, mode)
    except OSError as error:
        kind = NotPermitted if error.errno in (errno.EACCES, errno.EPERM) else HostsFileError
        raise kind(
            f"{target} can only be written in place, and {in_state_dir.folder} cannot keep a backup "
            f"of it ({error.strerror}): make that folder writable, or the file's own"
        ) from error
    return in_state_dir


def escaped(target: str) -> str:
    """A file name for a path, as `systemd-escape --path` makes it: all hosts files share one state directory."""
    return target.strip("/").replace("-", "\\x2d").replace("/", "-")
