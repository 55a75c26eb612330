"""Everything apiha can fail with; each error carries the exit code that docs/cli.md documents for it."""

from __future__ import annotations

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2  # click's own code for a wrong command line
EXIT_NO_CONTROL_PLANE = 3
EXIT_VIP_TIMEOUT = 4
EXIT_CONFIG = 5
EXIT_NOT_PERMITTED = 6
EXIT_CONFLICT = 7
EXIT_HOSTS_FILE = 8
EXIT_PROBLEMS = 9  # `apiha status` found something wrong
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class ApihaError(Exception):
    """An error that a user can act on: its message is one line saying what, where, and what to do instead."""

    exit_code = EXIT_INTERNAL


class NoControlPlane(ApihaError):
    """No control plane proved itself alive and genuine."""

    exit_code = EXIT_NO_CONTROL_PLANE


class VipTimeout(ApihaError):
    """The VIP did not prove itself within the time limit."""

    exit_code = EXIT_VIP_TIMEOUT


class ConfigError(ApihaError):
    """A setting, or a file that a setting names, is not usable."""

    exit_code = EXIT_CONFIG


class NotPermitted(ApihaError):
    """The process lacks the rights for what was asked."""

    exit_code = EXIT_NOT_PERMITTED


class HostsConflict(ApihaError):
    """A line outside apiha's block names the same host, and `on_conflict` is `refuse`."""

    exit_code = EXIT_CONFLICT


class HostsFileError(ApihaError):
    """The hosts file could not be read or written (disk full, read-only, locked by another run)."""

    exit_code = EXIT_HOSTS_FILE
