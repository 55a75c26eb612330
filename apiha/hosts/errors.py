"""What can go wrong with a hosts file: an error of the file system as one line; a block that changed meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from apiha.errors import ApihaError, HostsFileError, NotPermitted


class BlockChanged(HostsFileError):
    """The block is no longer the one that a decision was made from; nothing was written.

    `addresses`: what the block gives the host now. Whoever decided decides anew.
    """

    def __init__(self, path: Path, addresses: tuple[str, ...]) -> None:
        super().__init__(f"{path}: another run changed the block meanwhile, nothing was written: run again")
        self.addresses = addresses


def explanation(error: OSError, path: Path) -> ApihaError:
    """An OSError of reading or writing the hosts file `path` as one line: what, where, and what to do."""
    code, why = error.errno, error.strerror
    if code in (errno.EACCES, errno.EPERM):
        if os.geteuid() != 0:
            return NotPermitted(f"no permission to read or write {path}: run as root (sudo)")
        return NotPermitted(
            f"no permission to write {path}, although root: it may be immutable (lsattr; chattr -i), or a "
            "security module or the unit's sandbox forbids it"
        )
    if code in (errno.ENOSPC, errno.EDQUOT):
        return HostsFileError(
            f"no space left to write {path} ({why}): it is as it was; free some, then run again"
        )
    if code == errno.EROFS:
        return HostsFileError(
            f"{path} is on a read-only file system: it is as it was; remount that read-write, then run again"
        )
    if code == errno.EFBIG:
        return HostsFileError(f"{path} is too large ({why}): is it a hosts file? See --hosts-file")
    if code in (errno.EISDIR, errno.EINVAL):
        kind = "a folder" if code == errno.EISDIR else "not a regular file"
        return HostsFileError(f"{path} is {kind}, a hosts file was expected: see --hosts-file")
    if code in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return HostsFileError(
            f"{path} cannot be opened or created ({why}): create its folder, or see --hosts-file"
        )
    if code == errno.EBADF:
        return HostsFileError(f"{error.filename or path}: {why}")
    return HostsFileError(f"{path} could not be read or written: {why}")
