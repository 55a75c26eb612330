"""Looks at the machine before `apiha install` writes. What it means is in `checks`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from apiha.config import OTHER_YAML_ERRORS, Config, read_text
from apiha.errors import ApihaError, ConfigError
from apiha.failfast import kernel
from apiha.hosts import ForeignLine, HostsFile, find_foreign
from apiha.install.checks import Seen
from apiha.install.install import HIDDEN_FROM_UNITS
from apiha.paths import CONFIG_FILE, STATE_DIR, SYSTEMD_RUNS, UNIT_DIR
from apiha.probe import Prober, ProbeResult, probe_all

_PATIENCE = 10.0  # seconds for `systemctl --version`
CLOUD_CONFIGS = (
    "etc/cloud/cloud.cfg",
    "etc/cloud/cloud.cfg.d/*.cfg",
    "var/lib/cloud/instance/cloud-config.txt",
)
# `true` and `template` make cloud-init rewrite the whole file at each boot; `localhost` only touches 127.0.1.1:
# https://cloudinit.readthedocs.io/en/latest/reference/modules.html#update-etc-hosts
_REWRITES = (True, "true", "True", "template")


def look(config: Config, hosts_file: Path, *, root: Path = Path("/"), now: datetime | None = None) -> Seen:
    """Look at everything that is judged; takes as long as the slowest probe. Nothing is changed.

    `now` is this machine's clock (UTC); below `root` is what other programs are configured with.
    """
    foreign: tuple[ForeignLine, ...] = ()
    hosts_problem = ""
    try:
        foreign = tuple(find_foreign(HostsFile(hosts_file, state_dir=STATE_DIR).read(), config.host))
    except ApihaError as error:
        hosts_problem = str(error)
    cluster: tuple[ProbeResult, ...] = ()
    vip, ca_problem = None, ""
    try:
        prober = Prober.from_config(config)
    except ConfigError as error:
        ca_problem = str(error)
    else:
        asked = [*config.control_plane, *([config.vip_endpoint] if config.vip_endpoint is not None else [])]
        answers = probe_all(prober.probe, asked)
        vip = answers.pop() if config.vip_endpoint is not None else None
        cluster = tuple(answers)
    interpreter = sys.executable or "unknown"
    places = [Path(interpreter), Path(os.path.realpath(interpreter))]
    return Seen(
        config,
        python=sys.version_info[:3],
        python_path=interpreter,
        python_hidden=any(place.is_relative_to(hidden) for place in places for hidden in HIDDEN_FROM_UNITS),
        now=now or datetime.now(timezone.utc),
        systemctl=_systemctl(),
        systemd_runs=SYSTEMD_RUNS.is_dir(),
        nft_problem="" if config.fail_fast == "off" else _nft_problem(),
        ca_problem=ca_problem,
        cluster=cluster,
        vip=vip,
        hosts_path=str(hosts_file),
        foreign=foreign,
        hosts_problem=hosts_problem,
        rewritten_by=cloud_init_rewrites(root),
        owner=_owner(root, hosts_file),
        read_only=_read_only(hosts_file.parent, UNIT_DIR, CONFIG_FILE.parent, STATE_DIR),
        mounted=os.path.ismount(hosts_file),
    )


def _systemctl() -> str | None:
    try:
        shown = subprocess.run(
            ["systemctl", "--version"], capture_output=True, text=True, timeout=_PATIENCE, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None if shutil.which("systemctl") is None else "systemctl"
    return " ".join(shown.partition("\n")[0].split()[:2])  # `systemd 252 (252.39-1~deb12u1)`


def _nft_problem() -> str:
    try:
        kernel.read()
    except ApihaError as error:
        return str(error)
    return ""


def _owner(root: Path, hosts_file: Path) -> str:
    """The system that makes the hosts file by itself, if there is one."""
    if (root / "etc/NIXOS").exists() or os.path.realpath(hosts_file).startswith("/nix/store/"):
        return "NixOS"
    return ""


def _read_only(*folders: Path) -> tuple[str, ...]:
    """Those of the folders, or of what is there of the way to them, that root cannot write: access(2) says EROFS."""
    found: dict[str, None] = {}  # in order
    for folder in folders:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(there, os.W_OK):
            found[str(there)] = None
    return tuple(found)


def cloud_init_rewrites(root: Path) -> tuple[tuple[str, int], ...]:
    """Files and lines that turn cloud-init's rewriting of the hosts file on; the last word wins, as in cloud-init."""
    import yaml

    if (root / "etc/cloud/cloud-init.disabled").exists():
        return ()
    found: tuple[tuple[str, int], ...] = ()
    for pattern in CLOUD_CONFIGS:
        for path in sorted(root.glob(pattern)):
            try:
                text = read_text(path, "cloud-init's configuration")
                document = yaml.safe_load(text)
            except (ConfigError, yaml.YAMLError, *OTHER_YAML_ERRORS):
                continue
            if not isinstance(document, dict) or "manage_etc_hosts" not in document:
                continue
            lines = enumerate(text.splitlines(), start=1)
            number = next((n for n, line in lines if line.startswith("manage_etc_hosts")), 1)
            found = ((str(path), number),) if document["manage_etc_hosts"] in _REWRITES else ()
    return found
