"""Files replaced whole or not at all, by a rename. Nothing here knows what the bytes mean.

Failures are OSErrors, with the file as it was.
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
from pathlib import Path

# Nobody's hosts file is larger; more than this is a mistake in a path, and would fill the memory.
MAX_SIZE = 64 * 1024 * 1024  # bytes
LOCK_POLL = 0.01  # seconds
LEFTOVER_AGE = 60.0  # seconds; a write takes milliseconds, on a disk that is in trouble seconds

# renameat2(2), linux/fs.h; Linux 3.15, and not all file systems
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_AT_FDCWD = -100  # linux/fcntl.h

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


def replace(path: str, data: bytes, expected: os.stat_result | None, before: bytes | None = None) -> None:
    """Put a new file in the place of `path`, with the same mode, owner and extended attributes; 0644 for a new one.

    Every reader sees all of the old bytes or all of the new ones, after a power failure too. `expected` is the state
    that `path` must still be in (None: missing), and `before` what it must hold, else ChangedMeanwhileError. Where
    the kernel can exchange two files, a change in the very last moment is noticed as well. Raises OSError; see
    NO_RENAME.
    """

    def move(temporary: str, path: str) -> None:
        if _identity(status_of(path)) != _identity(expected):
            raise ChangedMeanwhileError
        if expected is None:
            _move_new(temporary, path)
        else:
            _move_over(temporary, path, expected, before)

    write_whole(path, data, lambda descriptor: _copy_attributes(descriptor, path, expected), move)


def remove(path: str, expected: os.stat_result, before: bytes) -> None:
    """Remove a file that is still as `expected` and holds `before`, else ChangedMeanwhileError. Raises OSError."""
    if _identity(status_of(path)) != _identity(expected):
        raise ChangedMeanwhileError
    temporary = _temporary(path)
    with signals_held():
        os.rename(path, temporary)
        if not _is_the_one(temporary, expected, before):
            with suppress(FileExistsError):  # a newer one is there by now
                _move_new(temporary, path)
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise ChangedMeanwhileError
        os.unlink(temporary)
        sync_folder(os.path.dirname(path))


def write_whole(
    path: str,
    data: bytes,
    prepare: Callable[[int], None],
    move: Callable[[str, str], None] = os.rename,
    *,
    durable: bool = True,
) -> None:
    """Write a temporary file beside `path`, `prepare` its descriptor, `move` it to its place.

    The temporary file, or what `move` leaves under its name, is removed. Without `durable` the disk is not waited for:
    a power cut may leave an empty file. Raises OSError, and whatever `prepare` and `move` raise.
    """
    folder = os.path.dirname(path)
    temporary = _temporary(path)
    with signals_held():
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            try:
                prepare(descriptor)
                overwrite(descriptor, data, durable=durable)
            finally:
                os.close(descriptor)
            move(temporary, path)
        finally:
            with suppress(OSError):
                os.unlink(temporary)
        if durable:
            sync_folder(folder)


def exchange(one: str, other: str) -> None:
    """Let two files change places in one step. Raises OSError: EINVAL or ENOSYS where that is not possible."""
    _renameat2(one, other, _RENAME_EXCHANGE)


def rename_new(old: str, new: str) -> None:
    """Rename to a name that must be free (EEXIST). Raises OSError: EINVAL or ENOSYS where that is not possible."""
    _renameat2(old, new, _RENAME_NOREPLACE)


def overwrite(descriptor: int, data: bytes, *, durable: bool = True) -> None:
    """Make `data` the whole content of an open file, and if `durable` have it on the disk. A kill leaves it torn."""
    view = memoryview(data)
    written = 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], written)
    os.ftruncate(descriptor, len(view))
    if durable:
        os.fsync(descriptor)


def sweep(path: str, *, now: float = 0.0, min_age: float = LEFTOVER_AGE) -> None:
    """Remove the temporary files of killed runs. Only under the lock.

    Those that changed within `min_age` seconds before `now` (seconds since 1970) stay: a run with another state
    directory locks something else, and may be writing one.
    """
    folder, name = os.path.split(path)
    leftover = re.compile(rf"\.{re.escape(name)}(\.apiha-\w+)?\.apiha-[0-9a-f]{{8}}")
    with suppress(OSError):
        for found in os.listdir(folder):
            if leftover.fullmatch(found):
                place = os.path.join(folder, found)
                with suppress(OSError):
                    # A rename changes st_ctime, and nobody can set it.
                    if not 0 <= now - os.lstat(place).st_ctime < min_age:
                        os.unlink(place)


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


def status_of(path: str) -> os.stat_result | None:
    """What lstat(2) says of `path`; None if nothing is there. Raises OSError."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def sync_folder(folder: str) -> None:
    """Have the entries of a folder on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


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


def _temporary(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.apiha-{os.urandom(4).hex()}")


def _move_over(temporary: str, path: str, expected: os.stat_result, before: bytes | None) -> None:
    """Exchange the two, and look at what came out: if another program changed it in the last moment, undo that."""
    mine = os.lstat(temporary).st_ino
    try:
        exchange(temporary, path)
    except FileNotFoundError:
        raise ChangedMeanwhileError from None
    except OSError:  # not possible here; or the rename is not possible either, and says why
        os.rename(temporary, path)
        return
    if _is_the_one(temporary, expected, before):
        return
    with suppress(FileNotFoundError):  # deleted in this moment: so it is to be gone
        exchange(temporary, path)
        if os.lstat(temporary).st_ino != mine:  # replaced once more in this moment: the newest one stays
            exchange(temporary, path)
    raise ChangedMeanwhileError


def _move_new(temporary: str, path: str) -> None:
    """Rename to a name that was free a moment ago; ChangedMeanwhileError if it is not any more."""
    try:
        rename_new(temporary, path)
    except FileExistsError:
        raise ChangedMeanwhileError from None
    except OSError:
        os.rename(temporary, path)


def _is_the_one(path: str, expected: os.stat_result, before: bytes | None) -> bool:
    """Whether a file that was renamed (which changes st_ctime) is still as it was."""
    status = os.lstat(path)
    same = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_mode", "st_uid", "st_gid")
    if any(getattr(status, name) != getattr(expected, name) for name in same):
        return False
    return before is None or read(path)[0] == before


def _renameat2(old: str, new: str, flags: int) -> None:
    # Imported late: only a write needs it.
    import ctypes

    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc 2.28, musl 1.2.6
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if function(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), old, None, new)


def _identity(status: os.stat_result | None) -> tuple[int, ...] | None:
    if status is None:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


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
