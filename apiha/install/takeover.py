"""A Debian package takes over from `apiha install`: what that put in /etc and /usr/local gives way to the package's."""

from __future__ import annotations

import contextlib
from pathlib import Path

from apiha.install.tree import Tree
from apiha.install.units import DROP_INS, UNITS, enableable, systemctl
from apiha.log import Reporter
from apiha.paths import CONFIG_FILE, PROGRAM, UNIT_DIR


def take_over(report: Reporter, *, root: Path = Path("/")) -> None:
    """Remove the program and the units that an earlier `apiha install` recorded, and enable the package's instead.

    What was edited since stays and is named: a unit in /etc/systemd/system comes before one in /usr/lib/systemd/system.
    The configuration stays; from now on dpkg keeps it. What the package does not bring stays recorded (the drop-in for
    kubelet). Raises ApihaError, OSError.
    """
    tree = Tree.recorded(root)
    units = [UNIT_DIR / name for name in (*UNITS, *DROP_INS)]
    enabled = [unit for unit in enableable() if any(tree.at(UNIT_DIR).glob(f"*.wants/{unit}"))]
    recorded = [path for path in units if str(path) in tree.files]
    edited = [path for path in recorded if tree.at(path).exists() and not tree.unchanged(str(path))]
    for path in edited:
        report.warning(
            f"kept {path}: it was changed since it was installed; it takes the place of the package's"
        )
    gone = [path for path in recorded if path not in edited]
    if not edited and str(PROGRAM) in tree.files and tree.unchanged(str(PROGRAM)):
        gone.append(PROGRAM)  # an edited unit still runs it
    for path in gone:
        tree.at(path).unlink(missing_ok=True)
    tree.forget([*gone, CONFIG_FILE])
    for folder in {path.parent for path in gone} - {UNIT_DIR, PROGRAM.parent}:
        with contextlib.suppress(OSError):  # not empty: somebody else uses it now
            tree.at(folder).rmdir()
    if gone:
        report.info(f"the package takes over from `apiha install`: removed {', '.join(map(str, gone))}")
    if enabled and root == Path("/"):
        systemctl("daemon-reload")
        systemctl("disable", *enabled)  # the links name the units that are gone
        systemctl("enable", *enabled)


def keep_config(report: Reporter, *, root: Path = Path("/")) -> None:
    """Take the configuration out of the record: `apiha uninstall` leaves it then. Raises ApihaError, OSError."""
    tree = Tree.recorded(root)
    if str(CONFIG_FILE) in tree.files:
        tree.forget([CONFIG_FILE])
        report.debug(f"{CONFIG_FILE} stays")
