"""Which units there are, the texts that are shipped with apiha, and systemctl."""

from __future__ import annotations

import re
import subprocess
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from apiha.errors import ApihaError
from apiha.paths import SYSTEMD_RUNS
from apiha.preview import Preview

if TYPE_CHECKING:
    from importlib.abc import Traversable  # moves to importlib.resources.abc, which Python 3.10 does not have

UNITS = (
    "apiha-bootstrap.service",
    "apiha-vip.service",
    "apiha-reconcile.service",
    "apiha-reconcile.timer",
    "apiha-reconcile.path",
    "apiha-failfast.service",
    "apiha-failfast-refresh.service",
    "apiha-failfast-refresh.path",
)
# Applies to every service whose name starts with `apiha-` (systemd.unit(5)): what these may do is said once.
SANDBOX = "apiha-.service.d/10-sandbox.conf"
# Where a service may do something else. Read after the sandbox: drop-ins are sorted by file name.
DROP_INS = (
    SANDBOX,
    "apiha-failfast.service.d/20-netfilter.conf",
    "apiha-failfast-refresh.service.d/20-systemd.conf",
)
# Written by `apiha install` where textfile_dir is set. Its number comes after those above, which empty the list.
TEXTFILE = "apiha-.service.d/30-textfile.conf"
KUBELET_HTTP2 = "kubelet.service.d/20-apiha-http2.conf"
SYSTEMCTL_TIMEOUT = 90.0  # seconds; systemd's own DefaultTimeoutStopSec


def shipped(name: str) -> str:
    """The text of a file of `systemd/`: inside the wheel or apiha.pyz, or beside the package in a source tree."""
    inside: Traversable = resources.files("apiha") / "systemd"
    folder = inside if inside.is_dir() else Path(__file__).resolve().parents[2] / "systemd"
    return folder.joinpath(*name.split("/")).read_text(encoding="utf-8")


def textfile_drop_in(folder: Path) -> str:
    """The drop-in by which every service may write its metrics into this folder; one that is missing is no error."""
    return f"""\
# The metrics for node_exporter go there (textfile_dir in the configuration).
[Service]
ReadWritePaths=-{folder}
"""


def folder_of(drop_in: str) -> Path | None:
    """The folder that such a drop-in names; None for a text that is not one."""
    found = re.search(r"^ReadWritePaths=-(/\S+)$", drop_in, re.MULTILINE)
    return None if found is None or ".." in found[1].split("/") else Path(found[1])


def wanted_by(unit: str) -> list[str]:
    """The units that pull this one in once it is enabled: `WantedBy=` of its text (systemd.unit(5))."""
    return [word for line in unit.splitlines() if line.startswith("WantedBy=") for word in line[9:].split()]


def enableable() -> list[str]:
    """The units that have an [Install] section."""
    return [unit for unit in UNITS if wanted_by(shipped(unit))]


def systemctl(*arguments: str, check: bool = True, preview: Preview | None = None) -> None:
    """Run systemctl, or show it in `preview`; raises ApihaError with its own words.

    Without a running systemd only `enable` makes sense.
    """
    running = SYSTEMD_RUNS.is_dir()
    if not running and arguments[0] not in ("enable", "disable"):
        return
    command = ["systemctl", *(word for word in arguments if running or word != "--now")]
    if preview is not None:
        preview.command(*command)
        return
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SYSTEMCTL_TIMEOUT, check=False)
    except FileNotFoundError:
        raise ApihaError(
            "systemctl not found: this machine has no systemd; `--root /` installs the files alone"
        ) from None
    except subprocess.TimeoutExpired:
        raise ApihaError(f"`{' '.join(command)}` did not return within {SYSTEMCTL_TIMEOUT:.0f} s") from None
    if check and done.returncode != 0:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ApihaError(f"`{' '.join(command)}` failed: {words}")
