"""What is the matter with this node, in words that a tired operator understands."""

from __future__ import annotations

import errno
import os
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from apiha import __version__
from apiha.config import Config, read_text, require_control_plane
from apiha.durations import format_duration
from apiha.endpoint import Endpoint
from apiha.errors import ApihaError, ConfigError, ExitCode
from apiha.hosts import BlockState, HostsFile, current, find_foreign, parse
from apiha.install import UNITS
from apiha.node.learned import LEARNED, load_learned
from apiha.node.phases import LOOPBACK
from apiha.paths import KUBELET_KUBECONFIG
from apiha.probe import Prober, ProbeResult, probe_all
from apiha.trust import load_ca, read_kubeconfig

EXPIRY_WARNING = timedelta(days=30)  # kubeadm renews at upgrades, once a year: time enough to plan one
SKEW_WARNING = timedelta(seconds=60)  # leases (40 s grace by default) and logs go wrong from about there
CLOUD_CONFIGS = (
    "etc/cloud/cloud.cfg",
    "etc/cloud/cloud.cfg.d/*.cfg",
    "var/lib/cloud/instance/cloud-config.txt",
)
# `true` and `template` make cloud-init write the whole file anew at each boot; `localhost` only touches 127.0.1.1:
# https://cloudinit.readthedocs.io/en/latest/reference/modules.html#update-etc-hosts
_REWRITES = (True, "true", "True", "template")


@dataclass(frozen=True)
class Answer:
    """What one address said, and which part it plays."""

    role: Literal["control-plane", "vip"]
    result: ProbeResult


@dataclass(frozen=True)
class Problem:
    """Something that is wrong: `code` is stable for programs, `message` says what and where, `advice` what to do."""

    severity: Literal["error", "warning"]
    code: str
    message: str
    advice: str


@dataclass(frozen=True)
class UnitState:
    """One systemd unit, by `systemctl show`."""

    name: str
    load: str
    active: str
    sub: str
    enabled: str

    def __str__(self) -> str:
        if self.load == "not-found":
            return "not installed"
        return f"{self.active} ({self.sub})" + (f", {self.enabled}" if self.enabled else "")


@dataclass(frozen=True)
class Status:
    """Everything `apiha status` knows."""

    config: Config
    hosts_file: Path
    block: BlockState | None
    meaning: str
    answers: Sequence[Answer]
    units: Sequence[UnitState]
    problems: Sequence[Problem] = field(default_factory=list)
    configured: bool = True  # False: the configuration could not be read, `config` is a guess

    @property
    def exit_code(self) -> int:
        """0 if nothing is wrong, 3 if no control plane answers, 5 without a configuration, 9 for any other error."""
        if not self.configured:
            return ExitCode.CONFIG
        errors = {problem.code for problem in self.problems if problem.severity == "error"}
        if "no-control-plane" in errors:
            return ExitCode.NO_CONTROL_PLANE
        return ExitCode.PROBLEMS if errors else ExitCode.OK


def observe(config: Config, state_dir: Path) -> list[Answer]:
    """Probe all control planes, configured and learned, and the VIP, all at once. Raises ConfigError.

    A certificate that only this machine's clock speaks against is looked at once more without the clock, so that its
    dates and the server's time can be told; the answer stays untrusted.
    """
    control_planes = _control_planes(config, state_dir)
    vip = [config.vip_endpoint] if config.vip_endpoint else []
    if not control_planes and not vip:
        require_control_plane(config)
    prober = Prober.from_config(config)
    results = probe_all(prober.probe, control_planes + vip)
    disputed = [r.endpoint for r in results if r.clock_problem]
    timeless = Prober.from_config(config, ignore_validity_period=True) if disputed else prober
    dates = {r.endpoint: r for r in probe_all(timeless.probe, disputed)}
    answers = []
    for index, result in enumerate(results):
        role: Literal["control-plane", "vip"] = "control-plane" if index < len(control_planes) else "vip"
        seen = dates.get(result.endpoint, result)
        told = replace(result, certificate_expires=seen.certificate_expires, server_time=seen.server_time)
        answers.append(Answer(role, told))
    return answers


def _control_planes(config: Config, state_dir: Path) -> list[Endpoint]:
    """This node's own API server if it has one, then the configured control planes, then the learned ones."""
    own = [Endpoint(LOOPBACK, config.port)] if config.role == "control-plane" else []
    return own + list(dict.fromkeys([*config.control_plane, *load_learned(state_dir)]))


def _may_read_learned(state_dir: Path) -> bool:
    """Whether this user may see what was learned; the state folder is root's."""
    try:
        (state_dir / LEARNED).stat()
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def gather(
    config: Config,
    hosts_file: Path,
    state_dir: Path,
    *,
    now: datetime | None = None,
    root: Path = Path("/"),
) -> Status:
    """Look at everything; trouble becomes a `Problem`, not an exception."""
    now = now or datetime.now(timezone.utc)
    answers: list[Answer] = []
    problems = _ca_problems(config, now)
    try:
        answers = observe(config, state_dir)
    except ConfigError as error:
        if not problems:
            problems.append(
                Problem(
                    "error", "configuration", str(error), "mend the configuration; nothing could be probed"
                )
            )
    control_planes = _control_planes(config, state_dir)
    known = {endpoint.address for endpoint in control_planes}
    all_known = _may_read_learned(state_dir)
    block, block_problems = _look_at_hosts(config, hosts_file, state_dir, known, all_known=all_known)
    units = unit_states()
    problems += block_problems
    problems += _port_problems(config, control_planes)
    problems += _answer_problems(config, answers, block, all_known=all_known)
    problems += _time_problems([answer.result for answer in answers], now)
    in_order = not any(p.severity == "error" for p in block_problems) and _first_answers(
        config, answers, block
    )
    problems += _unit_problems(units, in_order=in_order)
    problems += _system_problems(root)
    problems += _kubeconfig_problems(config, root)
    if config.insecure_skip_tls_verify:
        problems.append(
            Problem(
                "warning",
                "insecure",
                "insecure_skip_tls_verify is on: any machine that answers can become this node's API server",
                "set ca_file and remove insecure_skip_tls_verify",
            )
        )
    meaning = _meaning(config, block, known, all_known=all_known)
    return Status(config, hosts_file, block, meaning, answers, units, problems)


def gather_unconfigured(
    error: ConfigError, hosts_file: Path, state_dir: Path, *, root: Path = Path("/")
) -> Status:
    """What can be told without a configuration: the block, for the name that it gives itself, and the units."""
    config = Config(host=_host_of_block(hosts_file, state_dir) or Config.host)
    block, problems = _look_at_hosts(config, hosts_file, state_dir, set(), all_known=False)
    units = unit_states()
    advice = "mend the configuration; until then nothing is probed and nothing is written"
    problems.insert(0, Problem("error", "configuration", str(error), advice))
    problems += _unit_problems(units, in_order=False)
    problems += _system_problems(root)
    meaning = _meaning(config, block, set(), all_known=True)
    if block and block.addresses:
        meaning = (
            f"{block.addresses[0]} comes first; without a configuration nobody can say whether it should"
        )
    return Status(config, hosts_file, block, meaning, [], units, problems, configured=False)


def _host_of_block(hosts_file: Path, state_dir: Path) -> str | None:
    """The name in the block's first line, if there is one."""
    try:
        text = parse(HostsFile(hosts_file, state_dir=state_dir).read())
    except ApihaError:
        return None
    entries = [line.split() for block in text.blocks for line in block.lines]
    names = (words[1] for words in entries if len(words) > 1 and not words[0].startswith(b"#"))
    return next((name.decode("ascii", "replace") for name in names), None)


def _meaning(config: Config, block: BlockState | None, known: set[str], *, all_known: bool) -> str:
    if block is None:
        return "unreadable"
    if not block.addresses:
        return "no block"
    first = block.addresses[0]
    if first == config.vip:
        return f"swapped: the VIP {first} comes first"
    if first == LOOPBACK and config.role == "control-plane":
        return "this node's own API server comes first"
    if first in known:
        return f"pinned: control plane {first} comes first"
    if not all_known:
        return f"{first} comes first; only root can tell whether it is a control plane that was learned"
    return f"{first} comes first, which is neither the VIP nor a control plane"


def _look_at_hosts(
    config: Config, hosts_file: Path, state_dir: Path, known: set[str], *, all_known: bool
) -> tuple[BlockState | None, list[Problem]]:
    """The block and what is wrong with it; where not `all_known`, no address in it is called a stranger."""
    try:
        data = HostsFile(hosts_file, state_dir=state_dir).read()
    except ApihaError as error:
        return None, [Problem("error", "hosts-file", str(error), "make the hosts file readable")]
    foreign = find_foreign(data, config.host)
    problems = [
        Problem(
            "error" if config.on_conflict == "refuse" else "warning",
            "foreign-line",
            f"{hosts_file}:{line.number}: a line that is not apiha's names {config.host} too: {line.text}",
            "remove the line, or set on_conflict: adopt to have it commented out until `apiha unpin`",
        )
        for line in foreign
    ]
    backup = HostsFile(hosts_file, state_dir=state_dir).interrupted()
    if backup is not None:
        problems.append(
            Problem(
                "error",
                "write-interrupted",
                f"{hosts_file}: a write was interrupted and may be half done; the bytes of before are in {backup}",
                "run `apiha reconcile`, which settles it",
            )
        )
    block = current(data, config.host)
    if block.unseen_by_go is not None:
        problems.append(
            Problem(
                "error",
                "line-too-long",
                f"{hosts_file}:{block.unseen_by_go}: a line of 64 KiB or more: Go programs such as kubelet stop "
                "reading there and do not see the block",
                "shorten the line, or move it behind the block",
            )
        )
    allowed = known | {config.vip}
    stranger = [address for address in block.addresses if all_known and address not in allowed]
    if not block.present:
        problems.append(
            Problem(
                "error",
                "no-block",
                f"{hosts_file} has no block of apiha"
                + ("" if foreign else f": {config.host} resolves to nothing"),
                "run `apiha pin-host`",
            )
        )
    elif block.damage or stranger:
        what = "; ".join(
            [*block.damage, *(f"{address} is neither the VIP nor a control plane" for address in stranger)]
        )
        problems.append(
            Problem(
                "error",
                "block-edited",
                f"{hosts_file}: the block was edited by hand, or its configuration changed: {what}",
                "run `apiha reconcile`; own lines belong outside the block",
            )
        )
    return block, problems


def _port_problems(config: Config, control_planes: Sequence[Endpoint]) -> list[Problem]:
    """Control planes that no client of this node can reach: it takes the port from its URL, not from the hosts file."""
    return [
        Problem(
            "warning",
            "port-mismatch",
            f"control plane {endpoint} is not on port {config.port}: a hosts file carries no port, so clients dial "
            f"{config.port} there",
            "set port to the one that all control planes and kubeconfigs use",
        )
        for endpoint in control_planes
        if endpoint.port != config.port
    ]


def _first_answers(config: Config, answers: Sequence[Answer], block: BlockState | None) -> bool:
    """Whether clients of this node find an API server with the first address that they try."""
    if block is None or not block.addresses:
        return False
    first = Endpoint(block.addresses[0], config.port)
    return any(a.result.endpoint == first and a.result.health.usable for a in answers)


def _answer_problems(
    config: Config, answers: Sequence[Answer], block: BlockState | None, *, all_known: bool
) -> list[Problem]:
    problems: list[Problem] = []
    planes = [a.result for a in answers if a.role == "control-plane"]
    vip = next((a.result for a in answers if a.role == "vip"), None)
    first = block.addresses[0] if block and block.addresses else None
    others = [result for result in planes if result.endpoint.address != LOOPBACK]
    if answers and not others and all_known:
        problems.append(
            Problem(
                "error" if config.role == "worker" else "warning",
                "no-control-planes-known",
                "control_plane is not set: without the VIP this node finds no API server",
                "list the control planes in the configuration (control_plane)",
            )
        )
    if config.role == "control-plane" and first not in (None, LOOPBACK):
        problems.append(
            Problem(
                "error",
                "role",
                f"role is control-plane, but {first} comes first in the block instead of {LOOPBACK}",
                "run `apiha reconcile`",
            )
        )
    if planes and not any(result.health.usable for result in planes):
        problems.append(
            Problem(
                "error",
                "no-control-plane",
                f"none of the {len(planes)} control planes answers as it should",
                "see the reasons above; is this node's network up, are the addresses right?",
            )
        )
    for result in planes:
        if not result.health.usable and result.endpoint.address == first:
            problems.append(
                Problem(
                    "error",
                    "first-dead",
                    f"{result.endpoint} comes first in the block and is {result.health.value}: {result.detail}",
                    "look at kube-apiserver on this node; the fallbacks serve meanwhile"
                    if first == LOOPBACK
                    else "run `apiha reconcile` (the timer does, every few minutes)",
                )
            )
        elif not result.health.usable:
            problems.append(
                Problem(
                    "warning",
                    "control-plane-down",
                    f"control plane {result.endpoint} is {result.health.value}: {result.detail}",
                    "look at that machine; this node does without it",
                )
            )
    if vip is not None and config.role == "worker":
        if not vip.health.usable and first == config.vip:
            problems.append(
                Problem(
                    "error",
                    "vip-silent",
                    f"the block says VIP first, but {vip.endpoint} is {vip.health.value}: {vip.detail}",
                    "run `apiha reconcile`; then look at kube-proxy on this node and at the Service `apiserver`",
                )
            )
        elif not vip.health.usable:
            problems.append(
                Problem(
                    "warning",
                    "vip-silent",
                    f"the VIP {vip.endpoint} is {vip.health.value}: {vip.detail}",
                    "normal until kube-proxy runs; else look at kube-proxy on this node and at the Service `apiserver`",
                )
            )
        elif first is not None and first != config.vip:
            problems.append(
                Problem(
                    "warning",
                    "not-swapped",
                    "the VIP answers, but the block does not say VIP first",
                    "apiha-vip.service swaps within seconds, else run `apiha reconcile`",
                )
            )
    return problems


def _time_problems(results: Sequence[ProbeResult], now: datetime) -> list[Problem]:
    """Clocks that disagree, and certificates whose validity ends or does not hold."""
    timed = [(r, r.server_time) for r in results if r.server_time is not None]
    off = [(r, theirs) for r, theirs in timed if abs(now - theirs) > SKEW_WARNING]
    problems: list[Problem] = []
    if len(off) * 2 > len(timed):  # most of them disagree with this machine: then it is this machine's clock
        disputed = [(r, theirs) for r, theirs in off if r.clock_problem]
        result, theirs = (disputed or off)[0]
        problems.append(
            Problem(
                "error" if disputed else "warning",
                "clock-skew",
                f"this machine's clock says {_stamp(now)}, {result.endpoint} says {_stamp(theirs)}"
                + (f"; {result.detail}" if disputed else ""),
                "set the clock (chrony, systemd-timesyncd)",
            )
        )
        results = [r for r in results if not r.clock_problem]
    else:
        problems += [
            Problem(
                "warning",
                "clock-skew",
                f"the clock of {r.endpoint} says {_stamp(theirs)}, this machine's {_stamp(now)}",
                "set the clock of that control plane: most others agree with this machine",
            )
            for r, theirs in off
        ]
    for result in results:
        expires = result.certificate_expires
        if result.clock_problem:
            problems.append(
                Problem(
                    "error",
                    "certificate-validity",
                    f"{result.endpoint}: {result.detail}, and the clocks agree; it {_expiry_words(expires, now)}",
                    "renew that control plane's serving certificate (`kubeadm certs renew apiserver`)",
                )
            )
        elif expires is not None and expires - now < EXPIRY_WARNING:
            problems.append(
                Problem(
                    "warning",
                    "certificate-expiring",
                    f"the serving certificate of {result.endpoint} {_expiry_words(expires, now)}",
                    "renew it on that control plane (`kubeadm certs renew apiserver`, then restart kube-apiserver)",
                )
            )
    return problems


def _expiry_words(expires: datetime | None, now: datetime) -> str:
    if expires is None:
        return "its dates are unknown"
    days = int(abs((expires - now).total_seconds()) // 86400)
    span = "1 day" if days == 1 else f"{days} days"
    if expires > now:
        return f"expires on {_stamp(expires)}, in {span}"
    return f"expired on {_stamp(expires)}, {span} ago"


def _stamp(moment: datetime | None) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ") if moment else "-"


def _ca_problems(config: Config, now: datetime) -> list[Problem]:
    """CA missing, unusable, expired or about to."""
    if config.insecure_skip_tls_verify:
        return []
    try:
        authority = load_ca(config)
    except ConfigError as error:
        advice = "copy the cluster's CA to this node and set ca_file"
        if os.strerror(errno.EACCES) in str(error):
            advice = "run it as root: this user may not read what is there"
        return [Problem("error", "ca-missing", str(error), advice)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=authority.pem)
    except (ssl.SSLError, ValueError):
        advice = "replace it with the cluster's CA certificate (PEM)"
        return [Problem("error", "ca-missing", f"{authority.source}: holds no certificate", advice)]
    ends = []
    for certificate in context.get_ca_certs():
        not_after = certificate.get("notAfter")
        if isinstance(not_after, str):
            ends.append(datetime.fromtimestamp(ssl.cert_time_to_seconds(not_after), timezone.utc))
    if not ends or max(ends) - now > EXPIRY_WARNING:
        return []  # of several CAs (a rotation) the one that lasts longest counts
    return [
        Problem(
            "error" if max(ends) <= now else "warning",
            "ca-expired" if max(ends) <= now else "ca-expiring",
            f"the cluster's CA in {authority.source} {_expiry_words(max(ends), now)}",
            "rotate the cluster's CA: https://kubernetes.io/docs/tasks/tls/manual-rotation-of-ca-certificates/",
        )
    ]


def unit_states() -> list[UnitState]:
    """The state of apiha's units; empty where systemd does not run."""
    properties = ("Id", "LoadState", "ActiveState", "SubState", "UnitFileState")
    command = ["systemctl", "show", "--property", ",".join(properties), "--", *UNITS]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    states = []
    for paragraph in shown.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in paragraph.splitlines() if "=" in line)
        states.append(UnitState(*(values.get(name, "") for name in properties)))
    return states


def _unit_problems(units: Sequence[UnitState], *, in_order: bool) -> list[Problem]:
    """What keeps the units from their work; `in_order`: the block is good and its first address answers.

    A service that failed stays failed until it runs again, weeks after the node was healed: then it is history.
    """
    problems = []
    for unit in units:
        if unit.active == "failed" and in_order and unit.name.endswith(".service"):
            name = unit.name.removesuffix(".service")
            message = f"{unit.name} failed earlier; the block is right by now, and its first address answers"
            advice = f"`systemctl reset-failed {name}` clears it; `journalctl -u {unit.name} -b` says why it failed"
            problems.append(Problem("warning", "unit-failed", message, advice))
        elif unit.active == "failed":
            advice = f"`journalctl -u {unit.name} -b` says why; `systemctl restart {unit.name}` tries again"
            problems.append(Problem("error", "unit-failed", f"{unit.name} failed", advice))
        elif unit.enabled == "disabled":
            advice = f"`systemctl enable {unit.name}`; after a reboot this node would not find its API server by itself"
            problems.append(Problem("error", "unit-disabled", f"{unit.name} is not enabled", advice))
    if idle := [u.name for u in units if _watches(u) and u.active == "inactive" and u.enabled == "enabled"]:
        message = (
            f"enabled, but not active: {' and '.join(idle)}: no reconcile from there until the next reboot"
        )
        problems.append(Problem("warning", "unit-inactive", message, f"`systemctl start {' '.join(idle)}`"))
    if missing := [unit.name for unit in units if unit.load == "not-found"]:
        advice = "run `apiha install`; without them nothing happens at the next boot"
        problems.append(Problem("warning", "unit-missing", f"not installed: {', '.join(missing)}", advice))
    return problems


def _watches(unit: UnitState) -> bool:
    """Whether it is a unit that starts the reconcile: these are active all the time, the services are not."""
    return unit.name.endswith((".timer", ".path"))


def _kubeconfig_problems(config: Config, root: Path) -> list[Problem]:
    """A kubelet that does not use the name; one of a control plane may ask the API server beside it (kubeadm's way)."""
    path = root / KUBELET_KUBECONFIG.relative_to("/")
    if config.role == "control-plane":
        return []
    try:
        server = read_kubeconfig(path).server
    except ConfigError:  # not joined yet, not root, or so broken that kubelet says so itself
        return []
    if server is None or _is_url_of(server, config.host, config.port):
        return []
    wanted = f"https://{config.host}:{config.port}"
    return [
        Problem(
            "warning",
            "kubeconfig",
            f"{path}: server: {server} is not {wanted}: kubelet does not use what apiha writes",
            f"set server: {wanted} and restart kubelet",
        )
    ]


def _is_url_of(url: str, host: str, port: int) -> bool:
    try:
        parts = urlsplit(url)
        return (parts.scheme, parts.hostname, parts.port or 443) == ("https", host, port)
    except ValueError:  # a port that is no number, a bracket left open
        return False


def _system_problems(root: Path) -> list[Problem]:
    """What other programs on the node do to the hosts file."""
    problems = []
    for name, number in _cloud_init_rewrites(root):
        problems.append(
            Problem(
                "warning",
                "cloud-init",
                f"{name}:{number}: manage_etc_hosts is on: cloud-init writes the hosts file anew at each boot",
                "set manage_etc_hosts: false; apiha puts its block back at each boot, but your own lines are lost",
            )
        )
    try:
        lines = (root / "etc/nsswitch.conf").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    hosts = next((line.split("#")[0].split() for line in lines if line.startswith("hosts:")), None)
    if hosts is not None and "files" not in hosts:
        problems.append(
            Problem(
                "error",
                "nsswitch",
                "/etc/nsswitch.conf: the line hosts: does not name files, so nobody reads the hosts file",
                "put files before dns in that line",
            )
        )
    return problems


def _cloud_init_rewrites(root: Path) -> list[tuple[str, int]]:
    """Files and lines that turn cloud-init's rewriting on; the last word wins, as in cloud-init."""
    import yaml

    if (root / "etc/cloud/cloud-init.disabled").exists():
        return []
    found: list[tuple[str, int]] = []
    for pattern in CLOUD_CONFIGS:
        for path in sorted(root.glob(pattern)):
            try:
                text = read_text(path, "cloud-init's configuration")
                document = yaml.safe_load(text)
            except (ConfigError, yaml.YAMLError, RecursionError, ValueError):
                continue
            if not isinstance(document, dict) or "manage_etc_hosts" not in document:
                continue
            lines = enumerate(text.splitlines(), start=1)
            number = next((n for n, line in lines if line.startswith("manage_etc_hosts")), 1)
            found = [(str(path), number)] if document["manage_etc_hosts"] in _REWRITES else []
    return found


def _columns(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        indent + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def probe_table(answers: Sequence[Answer]) -> str:
    """The answers as a table for people."""
    rows = [["ADDRESS", "ROLE", "STATE", "HTTP", "LATENCY", "CERT EXPIRES", "WHY"]]
    for answer in answers:
        result = answer.result
        rows.append(
            [
                str(result.endpoint),
                answer.role,
                result.health.value,
                str(result.status or "-"),
                format_duration(result.latency),
                result.certificate_expires.strftime("%Y-%m-%d") if result.certificate_expires else "-",
                "" if result.detail == result.health.value else result.detail,
            ]
        )
    return _columns(rows)


def probe_json(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The answers for programs: times in RFC 3339 (UTC), latency in seconds."""
    return [
        {
            "address": answer.result.endpoint.address,
            "port": answer.result.endpoint.port,
            "role": answer.role,
            "state": answer.result.health.value,
            "http_status": answer.result.status,
            "latency_seconds": round(answer.result.latency, 6),
            "certificate_expires": _json_time(answer.result.certificate_expires),
            "server_time": _json_time(answer.result.server_time),
            "why": answer.result.detail,
        }
        for answer in answers
    ]


def _json_time(moment: datetime | None) -> str | None:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def status_json(status: Status) -> dict[str, Any]:
    """The status for programs."""
    block = status.block
    return {
        "version": __version__,
        "host": status.config.host,
        "role": status.config.role,
        "hosts_file": str(status.hosts_file),
        "block": {
            "present": bool(block and block.present),
            "meaning": status.meaning,
            "addresses": list(block.addresses) if block else [],
        },
        "answers": probe_json(status.answers),
        "units": [
            {"name": u.name, "load": u.load, "active": u.active, "sub": u.sub, "enabled": u.enabled}
            for u in status.units
        ],
        "problems": [
            {"severity": p.severity, "code": p.code, "message": p.message, "advice": p.advice}
            for p in status.problems
        ],
        "exit_code": status.exit_code,
    }


def status_text(status: Status) -> str:
    """The status for people."""
    parts = [f"{status.config.host} in {status.hosts_file}: {status.meaning}"]
    if status.block and status.block.addresses:
        parts.append("  " + ", then ".join(status.block.addresses))
    if status.answers:
        parts += ["", probe_table(status.answers)]
    parts += ["", "Units:"]
    if status.units:
        parts.append(_columns([[unit.name, str(unit)] for unit in status.units], indent="  "))
    else:
        parts.append("  systemd does not run here")
    parts.append("")
    if not status.problems:
        parts.append("Nothing is wrong.")
    else:
        parts.append("Problems:")
        for problem in sorted(status.problems, key=lambda p: p.severity):
            parts += [f"  {problem.severity.upper()}: {problem.message}", f"    -> {problem.advice}"]
    return "\n".join(parts)
