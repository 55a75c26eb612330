"""Files replaced whole or not at all: by rename where that is possible, else in place with a journal.

Nothing here knows what the bytes mean. Failures are OSErrors, with the file as it was.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# Nobody's hosts file is larger; more than this is a mistake in a path, and would fill the memory.
MAX_SIZE = 64 * 1024 * 1024  # bytes
LOCK_POLL = 0.01  # seconds

# Why a rename over a file can be impossible although the file itself is writable: it is a mount point
# (EBUSY), its folder is read-only (EROFS) or not ours to write in, or its owner or label cannot be kept
# (EACCES, EPERM).
NO_RENAME = frozenset({errno.EBUSY, errno.EROFS, errno.EACCES, errno.EPERM})

# IMA's hash and EVM's signature are of the old bytes, and the kernel's to write:
# https://www.kernel.org/doc/Documentation/ABI/testing/evm
_XATTRS_OF_CONTENT = frozenset({"security.ima", "security.evm"})
_ACL = "system.posix_acl_access"  # acl(5)


class ChangedMeanwhileError(Exception):
    """Another program wrote the file between our reading and our rename."""


class LockTimeoutError(Exception):
    """The lock was not had in time. `holder` says in words who has it."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"locked by {holder}")
        self.holder = holder


def read(path: str) -> tuple[bytes, os.stat_result | None]:
    """The bytes, and what stat(2) said before they were read; no bytes and None if there is no such file.

    Raises OSError: EISDIR and EINVAL for what is no regular file, EFBIG for more than MAX_SIZE.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)  # a FIFO must not hold us
    except FileNotFoundError:
        return b"", None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(
                errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL, "not a regular file"
            )
        return read_open(descriptor), status
    finally:
        os.close(descriptor)


def read_open(descriptor: int) -> bytes:
    """All bytes of an open file. Raises OSError: EFBIG for more than MAX_SIZE."""
    parts = []
    size = 0
    while part := os.pread(descriptor, 1 << 20, size):
        parts.append(part)
        size += len(part)
        if size > MAX_SIZE:
            raise OSError(errno.EFBIG, f"larger than {MAX_SIZE >> 20} MiB")
    return b"".join(parts)


def replace(path: str, data: bytes, expected: os.stat_result | None) -> None:
    """Rename a new file over `path`, with the same mode, owner and extended attributes; 0644 for a new one.

    Every reader sees all of the old bytes or all of the new ones, after a power failure too. `expected` is
    the state that `path` must still be in (None: missing), else ChangedMeanwhileError. Raises OSError; see
    NO_RENAME.
    """

    def unchanged() -> None:
        if _identity(_lstat(path)) != _identity(expected):
            raise ChangedMeanwhileError

    _install(path, data, lambda descriptor: _copy_attributes(descriptor, path, expected), unchanged)


def overwrite(descriptor: int, data: bytes) -> None:
    """Make `data` the whole content of an open file, and have it on the disk. A kill leaves it torn."""
    view = memoryview(data)
    written = 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], written)
    os.ftruncate(descriptor, len(view))
    os.fsync(descriptor)


def sweep(path: str) -> None:
    """Remove the temporary files of killed runs. Only under the lock, for then nobody else has one."""
    folder, name = os.path.split(path)
    leftover = re.compile(rf"\.{re.escape(name)}(\.apiha-\w+)?\.apiha-[0-9a-f]{{8}}")
    with suppress(OSError):
        for found in os.listdir(folder):
            if leftover.fullmatch(found):
                with suppress(OSError):
                    os.unlink(os.path.join(folder, found))


def lock(
    descriptor: int, deadline: float, clock: Callable[[], float], sleep: Callable[[float], None]
) -> None:
    """flock(2) an open file or folder for this process alone; LockTimeoutError at `deadline` (of `clock`)."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if clock() >= deadline:
                raise LockTimeoutError(_lock_holder(descriptor)) from None
        sleep(LOCK_POLL)


@contextmanager
def signals_held() -> Iterator[None]:
    """Put SIGINT, SIGTERM and SIGHUP off until a file is whole and no temporary file is left.

    Handlers rather than a mask: a mask holds for one thread, and a signal may be delivered to any. Only the
    main thread can set them; elsewhere this does nothing, and a later run sweeps up what is left.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before: dict[int, Callable[..., object] | int] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(number)
            if handler is not None and handler != signal.SIG_IGN:
                before[number] = handler
                signal.signal(number, lambda received, _frame: arrived.append(received))
        yield
    finally:
        for held, handler in before.items():
            signal.signal(held, handler)
        for received in arrived:
            signal.raise_signal(received)


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
                _install(str(path), data, lambda descriptor: os.fchmod(descriptor, mode), lambda: None)
        except BaseException:
            with suppress(OSError):
                self.discard()
            raise

    def load(self) -> tuple[bytes, bytes]:
        """(before, after). Raises OSError: EBADF if another user made those files.

        In a folder like /tmp anybody could, to have them written over the hosts file.
        """
        for path in (self.backup, self.intended):
            status = _lstat(str(path))
            if status is None:
                continue  # somebody removed it: `read` says no bytes
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
                raise OSError(
                    errno.EBADF, "not a backup that apiha made: look at it, then remove it", str(path)
                )
        return read(str(self.backup))[0], read(str(self.intended))[0]

    def discard(self) -> None:
        """The file is whole: forget both."""
        for path in (self.backup, self.intended):
            if os.path.lexists(
                path
            ):  # on a read-only file system unlink(2) says EROFS even for what is not there
                path.unlink()
        _sync_folder(str(self.folder))

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


def _install(path: str, data: bytes, prepare: Callable[[int], None], check: Callable[[], None]) -> None:
    """Write a temporary file beside `path`, `prepare` it, `check`, rename; on failure it does not stay."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.apiha-{os.urandom(4).hex()}")
    with signals_held():
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            try:
                prepare(descriptor)
                overwrite(descriptor, data)
            finally:
                os.close(descriptor)
            check()
            os.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(folder)


def _copy_attributes(descriptor: int, path: str, like: os.stat_result | None) -> None:
    if like is None:
        os.fchmod(descriptor, 0o644)
        return
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
    theirs, mine = _xattrs(path), _xattrs(descriptor)
    for name, value in theirs.items():
        if mine.get(name) != value and name not in _XATTRS_OF_CONTENT:
            with _ignoring_unsupported():
                os.setxattr(descriptor, name, value)
    if _ACL in mine and _ACL not in theirs:  # inherited from the folder's default ACL
        os.removexattr(descriptor, _ACL)
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
        # Last: mode and attributes of a file that is no longer ours would take CAP_FOWNER, which the units drop.
        os.fchown(descriptor, like.st_uid, like.st_gid)


def _xattrs(file: str | int) -> dict[str, bytes]:
    """All extended attributes, POSIX ACLs and the SELinux label among them."""
    found = {}
    with _ignoring_unsupported():
        for name in os.listxattr(file):
            with _ignoring_unsupported():
                found[name] = os.getxattr(file, name)
    return found


@contextmanager
def _ignoring_unsupported() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENODATA):
            raise


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _identity(status: os.stat_result | None) -> tuple[int, ...] | None:
    if status is None:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _lock_holder(descriptor: int) -> str:
    """Who holds the flock(2) on an open file, as proc_locks(5) tells it."""
    status = os.fstat(descriptor)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError, IndexError):
        for fields in map(str.split, Path("/proc/locks").read_text().splitlines()):
            if (fields[1], fields[5]) == ("FLOCK", file):
                with suppress(OSError):
                    return f"process {fields[4]} ({Path('/proc', fields[4], 'comm').read_text().strip()})"
                return f"process {fields[4]}"
    return "another process"
