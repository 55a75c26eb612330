"""Settles a machine's settings before anything is written: what was given, what the cluster says, what is there."""

from __future__ import annotations

import os
from collections.abc import Mapping

from apiha.config import Config, load
from apiha.errors import NotPermitted
from apiha.install.discover import discover
from apiha.install.found import missing
from apiha.install.install import configured
from apiha.log import Reporter
from apiha.paths import CONFIG_FILE

_SOUGHT = ("control_plane", "vip")


def require_root() -> None:
    """Raises NotPermitted for anybody else."""
    if os.geteuid() != 0:
        raise NotPermitted("cannot install: run it as root")


def settle(report: Reporter, given: Mapping[str, str], *, now: bool) -> tuple[dict[str, str], Config]:
    """The settings for a new configuration (key to text), and the configuration that the machine will have.

    A configuration that is there stays, and the cluster is asked for nothing. Else the cluster is asked for what was
    not given. Raises ConfigError for a configuration that cannot be used; where the units would start `now` without
    what they need, whatever kept it from being found.
    """
    settings = dict(given)
    if configured(CONFIG_FILE):
        return settings, load(CONFIG_FILE, {}, {})
    if any(key not in given for key in _SOUGHT):
        port = given.get("port")
        seen = discover(given, None if port is None else load(None, {}, {"port": port}).port)
        for found in seen.found:
            settings[found.key] = found.text
            report.info(f"found {found.key}: {found.text}: {found.source}", key=found.key, text=found.text)
        problem = missing(seen.problems, settings, given)
        if problem is not None and now:
            raise problem
        for words in dict.fromkeys(map(str, seen.problems.values())):
            report.warning(words)
    return settings, load(None, {}, settings)
