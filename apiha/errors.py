"""Everything apiha can fail with; each error carries the exit code that docs/cli.md documents for it."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process ends with. The help text and docs/cli.md are rendered from, and checked against, this table."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        """A member whose `meaning` is a few words for people."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    OK = 0, "done"
    INTERNAL = 1, "internal error"
    USAGE = 2, "wrong command line"  # click's own code for it
    NO_CONTROL_PLANE = 3, "no live control plane"
    VIP_TIMEOUT = 4, "the VIP did not answer in time"
    CONFIG = 5, "bad configuration"
    NOT_PERMITTED = 6, "not permitted (not root?)"
    CONFLICT = 7, "another line names the host, or another table is called apiha"
    HOSTS_FILE = 8, "hosts file not writable"
    PROBLEMS = 9, "`status` found a problem"
    UNSUPPORTED = 10, "this machine cannot do it"
    KUBELET = 11, "kubelet was not pointed at the name"
    REFUSED = 12, "refused: the state of the cluster does not allow it"
    NOT_FOLLOWED = 13, "written, but the cluster did not follow in time"
    INTERRUPTED = 130, "interrupted"  # 128 + SIGINT, as shells report it


class ApihaError(Exception):
    """An error that a user can act on: its message is one line saying what, where, and what to do instead."""

    exit_code = ExitCode.INTERNAL


class NoControlPlane(ApihaError):
    """No control plane proved itself alive and genuine."""

    exit_code = ExitCode.NO_CONTROL_PLANE


class VipTimeout(ApihaError):
    """The VIP did not prove itself within the time limit."""

    exit_code = ExitCode.VIP_TIMEOUT


class ConfigError(ApihaError):
    """A setting, or a file that a setting names, is not usable."""

    exit_code = ExitCode.CONFIG


class NotPermitted(ApihaError):
    """The process lacks the rights for what was asked."""

    exit_code = ExitCode.NOT_PERMITTED


class HostsConflict(ApihaError):
    """A line outside apiha's block names the same host, and `on_conflict` is `refuse`."""

    exit_code = ExitCode.CONFLICT


class HostsFileError(ApihaError):
    """The hosts file could not be read or written (disk full, read-only, locked by another run)."""

    exit_code = ExitCode.HOSTS_FILE
