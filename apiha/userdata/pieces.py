"""Every file, unit and command that a node to come needs, whatever format they are written in."""

from __future__ import annotations

import gzip
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apiha.config import load, short_text
from apiha.errors import ConfigError
from apiha.install.units import (
    DROP_INS,
    KUBELET_HTTP2,
    TEXTFILE,
    UNITS,
    enableable,
    shipped,
    textfile_drop_in,
    wanted_by,
)
from apiha.paths import CONFIG_FILE, KUBEADM_CA, PROGRAM, UNIT_DIR

CA_FILE = Path("/etc/apiha/ca.crt")  # not kubeadm's own: `kubeadm join` refuses to start where that exists
ARCHIVE = Path("/opt/apiha.pyz")  # installs itself from there
# Where Ignition puts the program: /usr, and /usr/local with it, is read-only on some systems that it sets up.
IGNITION_PROGRAM = Path("/opt/bin/apiha")
JOIN_SCRIPT = Path(
    "/etc/apiha/join"
)  # for root only: it holds the token; what a unit says everybody may read
JOIN_UNIT = "join-cluster.service"  # not apiha-…: those get the sandbox of apiha's services
_PATH = "/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PIN = "bootstrap --pin-only --timeout 5m"  # the network may take its time at a first boot
_ANY_PYTHON = b"#!/usr/bin/env python3"

_JOIN_SERVICE = f"""\
[Unit]
Description=Join the Kubernetes cluster
Wants=network-online.target
After=network-online.target apiha-bootstrap.service containerd.service crio.service
ConditionPathExists=!/etc/kubernetes/kubelet.conf
StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
Environment=PATH={_PATH}
ExecStart=/bin/sh -e {JOIN_SCRIPT}
Restart=on-failure
RestartSec=15s

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Program:
    """How the program comes onto the node: from `url`, as `archive` inside the user data, or (neither) in the image.

    `sha256` (hexadecimal) is that of what lies at `url`.
    """

    url: str | None = None
    sha256: str | None = None
    archive: bytes | None = None

    @property
    def in_image(self) -> bool:
        """Whether the image has it, with its units enabled."""
        return self.url is None and self.archive is None


@dataclass(frozen=True)
class NodeFile:
    """A file that is to be on the node: its contents are `text`, or `gzipped`, or what lies at `url`."""

    path: Path
    text: str | None = None
    gzipped: bytes | None = None
    url: str | None = None
    sha256: str | None = None
    mode: int = 0o644


@dataclass(frozen=True)
class Unit:
    """A systemd unit that is to be on the node."""

    name: str
    text: str
    enabled: bool


@dataclass(frozen=True)
class Plan:
    """A node to come.

    `settings` (key to text, checked) go into its configuration; `ca` is a PEM text; `join` is the whole `kubeadm join`,
    None for a node that joins in another way.
    """

    settings: Mapping[str, str]
    ca: str
    program: Program
    join: Sequence[str] | None = None
    kubelet_http2: bool = False


def join_command(host: str, port: int, token: str, pins: Sequence[str]) -> list[str]:
    """What `kubeadm token create --print-join-command` prints, for the name instead of one control plane."""
    hashes = [word for pin in pins for word in ("--discovery-token-ca-cert-hash", pin)]
    return ["kubeadm", "join", f"{host}:{port}", "--token", token, *hashes]


def read_archive(path: Path) -> bytes:
    """An `apiha.pyz` that runs with the Python of any node; raises ConfigError if it is something else."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--embed {path}: cannot read it: {error.strerror}") from None
    first, _, rest = data.partition(b"\n")
    if not first.startswith(b"#!") or not rest.startswith(b"PK") or b"apiha/__init__.py" not in rest:
        raise ConfigError(f"--embed {path}: not an apiha.pyz; expected the file that `make dist` builds")
    return (
        _ANY_PYTHON + b"\n" + rest
    )  # an installed one names the Python of the machine that it is installed on


# ------------------------------------------------------------------------------------------------ the pieces


def config_file(plan: Plan) -> NodeFile:
    """The node's configuration."""
    return NodeFile(CONFIG_FILE, short_text(plan.settings))


def ca_file(plan: Plan) -> NodeFile:
    """The cluster's CA; raises ConfigError for a place that `kubeadm join` wants to be free."""
    path = Path(plan.settings["ca_file"])
    if plan.join is not None and path == KUBEADM_CA:
        raise ConfigError(f"--ca-file: `kubeadm join` fails where {path} exists; expected {CA_FILE}")
    return NodeFile(path, plan.ca if plan.ca.endswith("\n") else plan.ca + "\n")


def cloud_init(plan: Plan) -> tuple[list[NodeFile], list[str]]:
    """The files, and the commands of the first boot in their order: install, pin, join, and what swaps later."""
    files = [config_file(plan), ca_file(plan)]
    commands = ["set -e"]  # without the program or the pin there is nothing to join with
    program = plan.program
    if program.url is not None:
        fetch = ["curl", "-fsSL", "--retry", "9", "--retry-connrefused", "-o", str(ARCHIVE), program.url]
        commands += [shlex.join(fetch), f"echo '{program.sha256}  {ARCHIVE}' | sha256sum -c"]
    elif program.archive is not None:
        packed = gzip.compress(program.archive, mtime=0)
        files.append(NodeFile(ARCHIVE, gzipped=packed, mode=0o755))
    if not program.in_image:
        commands.append(f"python3 {ARCHIVE} install{' --kubelet-http2' if plan.kubelet_http2 else ''}")
    commands.append(f"apiha {_PIN}")
    if plan.join is not None:
        commands.append(shlex.join(plan.join))
    # The pin is done. Where runcmd is part of the boot, waiting for a job here would be waiting for the boot's own.
    later = [
        unit
        for unit in enableable()
        if unit not in ("apiha-bootstrap.service", "apiha-failfast-refresh.service")
    ]
    commands.append(f"systemctl start --no-block {' '.join(later)}")
    return files, commands


def ignition(plan: Plan) -> tuple[list[NodeFile], list[Unit]]:
    """The files and the units: Ignition runs no commands, so units do what is to be done, also at the first boot."""
    files, found = [config_file(plan), ca_file(plan)], list[Unit]()
    program = plan.program
    if program.archive is not None:
        packed = gzip.compress(program.archive, mtime=0)
        files.append(NodeFile(IGNITION_PROGRAM, gzipped=packed, mode=0o755))
    elif program.url is not None:
        files.append(NodeFile(IGNITION_PROGRAM, url=program.url, sha256=program.sha256, mode=0o755))
    if not program.in_image:
        found, drop_ins = units(IGNITION_PROGRAM, kubelet_http2=plan.kubelet_http2)
        folder = load(None, {}, dict(plan.settings)).textfile_dir
        if folder is not None:
            drop_ins[UNIT_DIR / TEXTFILE] = textfile_drop_in(folder)
        files += [NodeFile(path, bare(text)) for path, text in drop_ins.items()]
        found = [Unit(unit.name, bare(unit.text), unit.enabled) for unit in found]
    if plan.join is not None:
        script = f"#!/bin/sh -e\napiha {_PIN}\n{shlex.join(plan.join)}\n"
        files.append(NodeFile(JOIN_SCRIPT, script, mode=0o700))
        found.append(Unit(JOIN_UNIT, _JOIN_SERVICE, enabled=True))
    return files, found


def units(program: Path = PROGRAM, *, kubelet_http2: bool = False) -> tuple[list[Unit], dict[Path, str]]:
    """The units that run this program, and the drop-ins: path to text."""
    found = []
    for name in UNITS:
        text = shipped(name).replace(str(PROGRAM), str(program))
        found.append(Unit(name, text, enabled=bool(wanted_by(text))))
    names = (*DROP_INS, *([KUBELET_HTTP2] if kubelet_http2 else []))
    return found, {UNIT_DIR / name: shipped(name) for name in names}


def bare(text: str) -> str:
    """A unit without its comments: clouds limit the size of user data."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(("#", ";")))
