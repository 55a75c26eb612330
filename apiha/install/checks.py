"""What `apiha install` looks at before it writes: observations in, findings out. Pure; `machine` observes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from apiha.config import Config
from apiha.errors import ExitCode
from apiha.findings import Finding, Severity
from apiha.hosts.adopt import ForeignLine
from apiha.probe import Health, ProbeResult

OLDEST_PYTHON = (3, 10)
CLOCK_OFF = timedelta(seconds=60)  # as `apiha status` has it
# Where the documentation explains a check; "" is for the others.
ANCHORS = {
    "nftables": "operations.md#fail-fast",
    "certificates": "cluster.md#1-the-name-in-the-serving-certificates",
    "clock": "operations.md#clock-skew",
    "hosts-lines": "operations.md#foreign-line",
    "cloud-init": "operations.md#manage_etc_hosts",
    "": "operations.md#what-apiha-install-checks",
}


@dataclass(frozen=True)
class Seen:
    """What was seen of the machine, and of the addresses that it will be told.

    `python` is the version in three numbers, `python_path` where it is, `python_hidden` whether units cannot see that
    place. `systemctl` is what `systemctl --version` says first (None: not there), `systemd_runs` whether systemd is
    PID 1. `nft_problem` says why fail fast cannot work, `ca_problem` why no certificate can be verified. `cluster` are
    the answers of the control planes, `vip` that of the VIP, `now` this machine's clock (UTC). `foreign` are other
    lines for the name in the hosts file, `hosts_problem` why it cannot be read. `rewritten_by` are file and line that
    make cloud-init write the hosts file. `owner` names a system that makes the hosts file itself, `read_only` are
    folders that cannot be written, `mounted` whether the hosts file is a mount of its own.
    """

    config: Config
    python: tuple[int, int, int]
    now: datetime
    python_path: str = ""
    python_hidden: bool = False
    systemctl: str | None = None
    systemd_runs: bool = True
    nft_problem: str = ""
    ca_problem: str = ""
    cluster: Sequence[ProbeResult] = ()
    vip: ProbeResult | None = None
    hosts_path: str = "/etc/hosts"
    foreign: Sequence[ForeignLine] = ()
    hosts_problem: str = ""
    rewritten_by: Sequence[tuple[str, int]] = ()
    owner: str = ""
    read_only: Sequence[str] = field(default_factory=tuple)
    mounted: bool = False


def judge(seen: Seen) -> list[Finding]:
    """One finding for each check, in the order in which they are made."""
    return [check(seen) for check in CHECKS]


def _ok(code: str, message: str) -> Finding:
    return Finding(Severity.OK, code, message)


def _warning(code: str, message: str, advice: str) -> Finding:
    return Finding(Severity.WARNING, code, message, advice, ANCHORS.get(code, ANCHORS[""]))


def _failed(code: str, message: str, advice: str, exit_code: ExitCode = ExitCode.UNSUPPORTED) -> Finding:
    return Finding(Severity.ERROR, code, message, advice, ANCHORS.get(code, ANCHORS[""]), exit_code)


def _python(seen: Seen) -> Finding:
    shown = f"python {'.'.join(map(str, seen.python))}, {seen.python_path}"
    if seen.python[:2] < OLDEST_PYTHON:
        return _failed("python", shown, f"run it with Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer")
    if seen.python_hidden:
        return _failed(
            "python",
            f"{shown}: the units' sandbox hides that folder",
            "run it with a Python below /usr or /opt, such as /usr/bin/python3",
        )
    return _ok("python", shown)


def _systemd(seen: Seen) -> Finding:
    if seen.systemctl is None:
        advice = "`apiha install --root /` writes the files without enabling the units"
        return _failed("systemd", "systemctl not found: this machine has no systemd", advice)
    if not seen.systemd_runs:
        return _warning(
            "systemd", f"{seen.systemctl}, not running", "the units are enabled, and start at the next boot"
        )
    return _ok("systemd", seen.systemctl)


def _nftables(seen: Seen) -> Finding:
    if seen.config.fail_fast == "off":
        return _ok("nftables", "nftables not needed: fail_fast is off")
    if seen.nft_problem:
        advice = "all else works; clients wait for a silent control plane until this is fixed, or set --fail-fast off"
        return _warning("nftables", f"no fail fast: {seen.nft_problem}", advice)
    return _ok("nftables", "nftables can be read: the kernel can refuse a silent control plane")


def _owner(seen: Seen) -> Finding:
    if seen.owner:
        return _failed(
            "hosts-owner",
            f"{seen.hosts_path} is made by {seen.owner}, which would undo what apiha writes",
            "see the page for how to use apiha there",
        )
    if seen.read_only:
        return _failed(
            "hosts-owner",
            f"read-only: {', '.join(seen.read_only)}",
            "make it writable, or install into the image with --root",
            ExitCode.HOSTS_FILE,
        )
    if seen.mounted:
        return _warning(
            "hosts-owner",
            f"{seen.hosts_path} is a mount of its own: is this a container?",
            "it is written in place; the program that mounted it may write it too",
        )
    return _ok("hosts-owner", f"no other program is known to own {seen.hosts_path}")


def _hosts_lines(seen: Seen) -> Finding:
    code, name = "hosts-lines", seen.config.host
    if seen.hosts_problem:
        return _failed(code, seen.hosts_problem, "fix that first", ExitCode.HOSTS_FILE)
    if not seen.foreign:
        return _ok(code, f"no other line of {seen.hosts_path} names {name}")
    lines = "; ".join(f"{seen.hosts_path}:{line.number}: {line.text}" for line in seen.foreign)
    message = f"another line names {name}: {lines}"
    if seen.config.on_conflict == "adopt":
        return _warning(code, message, "it will be commented out until `apiha unpin`")
    advice = "remove the line, or give --on-conflict adopt to have it commented out"
    return _failed(code, message, advice, ExitCode.CONFLICT)


def _cloud_init(seen: Seen) -> Finding:
    if not seen.rewritten_by:
        return _ok("cloud-init", f"cloud-init does not write {seen.hosts_path}")
    where = ", ".join(f"{path}:{line}" for path, line in seen.rewritten_by)
    return _warning(
        "cloud-init",
        f"{where}: manage_etc_hosts is on: cloud-init rewrites {seen.hosts_path} at each boot",
        "set manage_etc_hosts: false",
    )


def _certificates(seen: Seen) -> Finding:
    """Whether the addresses prove themselves. A machine that is down is no reason not to install."""
    code, name = "certificates", seen.config.host
    if seen.config.insecure_skip_tls_verify:
        advice = "set ca_file, and remove insecure_skip_tls_verify"
        return _warning(code, "certificates are not verified: any machine may answer", advice)
    if seen.ca_problem:
        advice = "put the CA there, or join the cluster: kubelet.conf brings it"
        return _warning(code, f"certificates cannot be verified yet: {seen.ca_problem}", advice)
    answers = [*seen.cluster, *([seen.vip] if seen.vip is not None else [])]
    if not answers:
        return _warning(code, "no control plane to ask", "fill in control_plane and vip")
    bad = [answer for answer in answers if not answer.health.genuine]
    told = "; ".join(f"{answer.endpoint} {answer.health.value}: {answer.detail}" for answer in bad)
    untrusted = [a for a in bad if a.health is Health.UNTRUSTED and not a.clock_problem]
    if not bad:
        number = len(seen.cluster)
        planes = f"{number} control plane{'' if number == 1 else 's'}"
        also = " and the VIP" if seen.vip is not None else ""
        return _ok(code, f"{planes}{also} answer with a certificate for {name}")
    if untrusted and len(bad) == len(answers):
        return _failed(code, told, f"give every API server a certificate for {name}", ExitCode.CONFIG)
    if untrusted:
        return _warning(
            code, told, f"give that API server a certificate for {name}; until then it is not used"
        )
    return _warning(code, told, "apiha installs all the same, and uses what answers")


def _clock(seen: Seen) -> Finding:
    times = [answer.server_time for answer in seen.cluster if answer.server_time is not None]
    off = [time for time in times if abs(time - seen.now) > CLOCK_OFF]
    disputed = [answer for answer in seen.cluster if answer.clock_problem]
    if disputed:
        words = "; ".join(f"{answer.endpoint}: {answer.detail}" for answer in disputed)
        return _warning("clock", f"this machine's clock says {_shown(seen.now)}; {words}", _SET_THE_CLOCK)
    if off:
        words = f"this machine's clock says {_shown(seen.now)}, a control plane's {_shown(off[0])}"
        return _warning("clock", words, _SET_THE_CLOCK)
    if not times:
        return _ok("clock", f"clock {_shown(seen.now)}; no control plane answered to compare with")
    return _ok("clock", f"clock {_shown(seen.now)}, within {CLOCK_OFF.seconds} s of the control planes'")


_SET_THE_CLOCK = "set the clock (`chronyc makestep`, `timedatectl`)"

CHECKS: tuple[Callable[[Seen], Finding], ...] = (
    _python,
    _systemd,
    _nftables,
    _owner,
    _hosts_lines,
    _cloud_init,
    _certificates,
    _clock,
)

SIGNS = {Severity.OK: "✓", Severity.WARNING: "!", Severity.UNKNOWN: "!", Severity.ERROR: "✗"}
ASCII_SIGNS = {Severity.OK: "ok", Severity.WARNING: "! ", Severity.UNKNOWN: "! ", Severity.ERROR: "X "}


def report_text(findings: Iterable[Finding], encoding: str) -> str:
    """The findings for people, in what `encoding` can write: a line each; below it what to do, and a link."""
    try:
        "".join(SIGNS.values()).encode(encoding)
        signs = SIGNS
    except (UnicodeEncodeError, LookupError):
        signs = ASCII_SIGNS
    lines = []
    for finding in findings:
        lines.append(f"{signs[finding.severity]} {' '.join(finding.message.split())}")
        if finding.severity is not Severity.OK:
            lines += [f"   -> {finding.advice}", f"      see {finding.link}"]
    return "\n".join(lines)


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%SZ}"
