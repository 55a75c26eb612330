"""What the installer does on its node, as root, run by the node's systemd: keep apiha current, or remove it.

The Pod (`pod.py`) sends the file apiha.pyz along; what runs here is that very file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from apiha import files
from apiha.errors import ApihaError, ConfigError
from apiha.hosts import HostsFile, parse
from apiha.install.install import running_archive, uninstall
from apiha.install.tree import Tree
from apiha.install.units import UNITS
from apiha.log import Reporter
from apiha.paths import (
    CONFIG_FILE,
    INSTALL_RECORD,
    INSTALLED_FROM,
    KUBELET_KUBECONFIG,
    KUBELET_RECORD,
    UNIT_DIR,
)
from apiha.trust import read_kubeconfig


def keep_current(install: Callable[[], None]) -> None:
    """Have `install` put on the node what this archive holds, unless exactly that is there already.

    Raises what `install` raises.
    """
    archive = running_archive()
    if archive is None:
        raise ApihaError("not run from apiha.pyz: there is nothing to put on the node")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    tree = Tree.recorded(Path("/"))
    if is_current(tree, digest):
        return
    install()
    place = tree.at(INSTALLED_FROM)
    files.replace(str(place), f"{digest}\n".encode(), place.lstat() if os.path.lexists(place) else None)


def is_current(tree: Tree, digest: str) -> bool:
    """Whether the archive with this SHA-256 was installed by the installer, and all that it wrote is still so.

    The configuration does not count: it is the administrator's from the day it is written.
    """
    try:
        installed = tree.at(INSTALLED_FROM).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return False
    ours = [path for path in tree.files if path != str(CONFIG_FILE)]
    return installed == digest and bool(ours) and all(tree.unchanged(path) for path in ours)


def remove(report: Reporter, host: str, hosts_file: Path) -> None:
    """Uninstall; returns when nothing of apiha is left but what somebody edited, which `uninstall` names.

    Raises ApihaError if something is left, or if kubelet still uses the name `host` and nobody knows what it used
    before: without the block it would lose its API server, and the node its last way to be told anything. Raises what
    `uninstall` raises.
    """
    tree = Tree.recorded(Path("/"))
    if not left(tree, hosts_file):
        return
    if kubelet_uses(host) and not tree.at(KUBELET_RECORD).exists():
        raise ApihaError(
            f"{KUBELET_KUBECONFIG} names {host}: kubelet would lose its API server; nothing was removed; point "
            "`server:` at another address and restart kubelet, then this goes on by itself"
        )
    uninstall(report, hosts_file=hosts_file)
    still = left(Tree.recorded(Path("/")), hosts_file)
    if still:
        raise ApihaError(f"still there: {', '.join(still)}: not from `apiha install`, remove it by hand")


def left(tree: Tree, hosts_file: Path) -> list[str]:
    """What of apiha is still there: the record, units, the block."""
    paths = [INSTALL_RECORD, INSTALLED_FROM, *(UNIT_DIR / unit for unit in UNITS)]
    found = [str(path) for path in paths if os.path.lexists(tree.at(path))]
    if parse(HostsFile(hosts_file).read()).blocks:
        found.append(f"the block in {hosts_file}")
    return found


def kubelet_uses(host: str, kubeconfig: Path = KUBELET_KUBECONFIG) -> bool:
    """Whether kubelet's kubeconfig names this host; not if there is none that can be read."""
    try:
        server = read_kubeconfig(kubeconfig).server
        return server is not None and urlsplit(server).hostname == host
    except (ConfigError, ValueError):  # ValueError: the server is not a URL
        return False
