"""How each check decides: a function from what was seen to what it found. Pure; the table is in checks.py."""

from __future__ import annotations

from collections.abc import Iterator

from apiha.endpoint import Endpoint
from apiha.errors import ExitCode
from apiha.findings import Severity
from apiha.install.kubeconfig import is_url_of
from apiha.install.units import SANDBOX
from apiha.node.choice import MISLEADING, worth_moving
from apiha.node.context import LOOPBACK
from apiha.probe import ProbeResult
from apiha.status.failfast import UNIT as FAIL_FAST
from apiha.status.model import Found, Observations, UnitState
from apiha.status.order import go_order

ERROR, WARNING = Severity.ERROR, Severity.WARNING


# ------------------------------------------------------------------------------------------ configuration and trust


def configuration(seen: Observations) -> Iterator[Found]:
    """What kept everything from being probed; a missing CA does so as well, and is told with its own advice."""
    if not seen.configured:
        advice = "fix the configuration; until then nothing is probed and nothing is written"
        yield Found(seen.config_error, advice=advice, exit_code=ExitCode.CONFIG)
    elif seen.config_error and not seen.ca.error:
        yield Found(seen.config_error)


def ca_missing(seen: Observations) -> Iterator[Found]:
    """A CA that is not there, or cannot be used."""
    if seen.ca.error:
        yield Found(
            seen.ca.error,
            advice="run it as root: this user may not read what is there" if seen.ca.hidden else "",
        )


def insecure(seen: Observations) -> Iterator[Found]:
    """Certificates that are not verified."""
    if seen.config.insecure_skip_tls_verify:
        yield Found(
            "insecure_skip_tls_verify is on: any machine that answers can become this node's API server"
        )


# ---------------------------------------------------------------------------------------------------- hosts file


def hosts_file(seen: Observations) -> Iterator[Found]:
    """A hosts file that cannot be read."""
    if seen.hosts.error:
        yield Found(seen.hosts.error)


def foreign_line(seen: Observations) -> Iterator[Found]:
    """Lines outside the block that name the host."""
    for line in seen.hosts.foreign:
        yield Found(
            f"{seen.hosts.path}:{line.number}: a line outside the block names {seen.config.host} too: {line.text}",
            ERROR if seen.config.on_conflict == "refuse" else WARNING,
        )


def write_interrupted(seen: Observations) -> Iterator[Found]:
    """What a write in place left behind that was killed."""
    if seen.hosts.backup is not None:
        yield Found(
            f"{seen.hosts.path}: a write was interrupted, and the file may be incomplete; its earlier content is in "
            f"{seen.hosts.backup}"
        )


def line_too_long(seen: Observations) -> Iterator[Found]:
    """A line that hides the block from Go programs."""
    block = seen.hosts.block
    if block is not None and block.unseen_by_go is not None:
        yield Found(
            f"{seen.hosts.path}:{block.unseen_by_go}: a line of 64 KiB or more: Go programs such as kubelet stop "
            "reading there and do not see the block"
        )


def no_block(seen: Observations) -> Iterator[Found]:
    """No block at all."""
    block = seen.hosts.block
    if block is not None and not block.present:
        no_address = "" if seen.hosts.foreign else f", and no address for {seen.config.host}"
        yield Found(f"{seen.hosts.path} has no block of apiha{no_address}")


def block_edited(seen: Observations) -> Iterator[Found]:
    """A block with lines or addresses that apiha would not write."""
    block = seen.hosts.block
    if block is None or not block.present:
        return
    known = {seen.config.vip, *(endpoint.address for endpoint in seen.control_planes)}
    strangers = [a for a in block.addresses if seen.configured and seen.all_known and a not in known]
    wrong = [*block.damage, *(f"{address} is neither the VIP nor a control plane" for address in strangers)]
    if wrong:
        yield Found(
            f"{seen.hosts.path}: the block was edited, or the configuration changed: {'; '.join(wrong)}"
        )


def address_order(seen: Observations) -> Iterator[Found]:
    """IPv6 addresses that Go programs dial in an order of their own."""
    addresses = seen.hosts.block.addresses if seen.hosts.block else ()
    if any(":" in address for address in addresses):
        dialed = go_order(addresses, seen.sources)[0]
        if dialed != addresses[0]:
            yield Found(
                f"Go programs such as kubelet dial {dialed} before {addresses[0]}: they sort IPv6 addresses"
            )


def role(seen: Observations) -> Iterator[Found]:
    """A control-plane node that does not use its own API server first."""
    if seen.config.role == "control-plane" and seen.first not in (None, LOOPBACK):
        yield Found(f"role is control-plane, but {seen.first} comes first in the block instead of {LOOPBACK}")


# ------------------------------------------------------------------------------------------------- who answers


def no_control_planes_known(seen: Observations) -> Iterator[Found]:
    """Nobody but the VIP to go to."""
    others = [result for result in seen.planes if result.endpoint.address != LOOPBACK]
    if seen.answers and not others and seen.all_known:
        yield Found(
            "control_plane is not set: without the VIP this node finds no API server",
            ERROR if seen.config.role == "worker" else WARNING,
        )


def two_writers(seen: Observations) -> Iterator[Found]:
    """Another program that takes the block away again and again."""
    if seen.hosts.rivalry.fighting:
        yield Found(f"{seen.hosts.path}: {seen.hosts.rivalry.words}")


def port_mismatch(seen: Observations) -> Iterator[Found]:
    """Control planes that no client of this node can reach: it takes the port from its URL, not from the hosts file."""
    for endpoint in seen.control_planes:
        if endpoint.port != seen.config.port:
            yield Found(
                f"control plane {endpoint} is not on port {seen.config.port}: a hosts file carries no port, so clients "
                f"dial {seen.config.port} there"
            )


def no_control_plane(seen: Observations) -> Iterator[Found]:
    """Nobody answers."""
    if seen.planes and not any(result.health.usable for result in seen.planes):
        count = len(seen.planes)
        yield Found(
            "the only control plane is neither ready nor alive"
            if count == 1
            else f"none of the {count} control planes is ready or alive"
        )


def first_dead(seen: Observations) -> Iterator[Found]:
    """The control plane that clients try first does not answer."""
    for result in seen.planes:
        if not result.health.usable and result.endpoint.address == seen.first:
            own = "look at kube-apiserver on this node; clients use the fallbacks meanwhile"
            yield Found(
                f"{result.endpoint} comes first in the block and is {result.health.value}: {result.detail}",
                advice=own if seen.first == LOOPBACK else _where_to_go(seen, result),
            )


def control_plane_down(seen: Observations) -> Iterator[Found]:
    """Another control plane does not answer."""
    for result in _others_down(seen):
        said = f"control plane {result.endpoint} is {result.health.value}: {result.detail}"
        if _misleads(seen, result):
            continue
        if result.endpoint.address in seen.drained:
            back = f"`apiha control-plane undrain {result.endpoint.address}`"
            yield Found(
                f"{said}; it is drained for maintenance",
                advice=f"once it is back: {back}, with an admin kubeconfig; this node works without it",
            )
        else:
            yield Found(said)


def left_out(seen: Observations) -> Iterator[Found]:
    """Another control plane answers in a way that would mislead clients, so it is no fallback."""
    block = seen.hosts.block
    for result in _others_down(seen):
        if block is None or not _misleads(seen, result):
            continue
        said = f"control plane {result.endpoint} is {result.health.value}: {result.detail}"
        if result.endpoint.address in block.addresses:
            yield Found(
                f"{said}; it is still in the block, and Go programs do not go on to the next address after it",
                advice="run `apiha reconcile`, which leaves it out; then look at that machine",
            )
        else:
            yield Found(f"{said}; it is left out of the block")


def _others_down(seen: Observations) -> list[ProbeResult]:
    """The control planes that do not answer, but for the one that comes first in the block."""
    return [r for r in seen.planes if not r.health.usable and r.endpoint.address != seen.first]


def _misleads(seen: Observations, result: ProbeResult) -> bool:
    return result.health in MISLEADING and seen.hosts.block is not None and seen.hosts.block.present


def vip_down(seen: Observations) -> Iterator[Found]:
    """The VIP does not answer."""
    vip = seen.vip
    if vip is None or vip.health.usable or seen.config.role != "worker":
        return
    if seen.first == vip.endpoint.address:
        yield Found(
            f"the VIP {vip.endpoint} comes first in the block and is {vip.health.value}: {vip.detail}",
            advice=_where_to_go(seen, vip),
        )
    else:
        yield Found(
            f"the VIP {vip.endpoint} is {vip.health.value}: {vip.detail}",
            WARNING,
            "normal until kube-proxy runs; else look at kube-proxy on this node and at the Service `apiserver`",
        )


def _where_to_go(seen: Observations, first: ProbeResult) -> str:
    """What to do about a first address that is not usable: empty (a reconcile) if there is a better one."""
    others = [answer.result for answer in seen.answers if answer.result.endpoint != first.endpoint]
    if any(worth_moving(first.health, other.health) for other in others):
        return ""
    return "no other address is better, so the block stays as it is; look at the control planes"


def not_swapped(seen: Observations) -> Iterator[Found]:
    """The VIP answers and is not used."""
    vip = seen.vip
    if vip is None or not vip.health.usable or seen.config.role != "worker":
        return
    if seen.first not in (None, vip.endpoint.address):
        yield Found(f"the VIP {vip.endpoint} answers, but {seen.first} comes first in the block")


# ---------------------------------------------------------------------------------------------------- the machine


def in_order(seen: Observations) -> bool:
    """Whether the hosts file is right, and clients of this node find an API server at the first address they try."""
    wrong = (hosts_file, foreign_line, write_interrupted, line_too_long, no_block, block_edited)
    errors = [found for find in wrong for found in find(seen) if found.severity is not WARNING]
    if errors or seen.first is None:
        return False
    first = Endpoint(seen.first, seen.config.port)
    return any(a.result.endpoint == first and a.result.health.usable for a in seen.answers)


def unit_failed(seen: Observations) -> Iterator[Found]:
    """A service that failed stays failed until it runs again, weeks after the node recovered: then it is history."""
    for unit in seen.units:
        if unit.name == FAIL_FAST:
            continue  # the table itself is looked at
        if unit.active == "failed" and unit.name.endswith(".service") and in_order(seen):
            name = unit.name.removesuffix(".service")
            yield Found(
                f"{unit.name} failed earlier; the block is right by now, and its first address answers",
                WARNING,
                f"`systemctl reset-failed {name}` clears it; `journalctl -u {unit.name} -b` says why it failed",
            )
        elif unit.active == "failed":
            yield Found(
                f"{unit.name} failed",
                advice=f"`journalctl -u {unit.name} -b` says why; `systemctl restart {unit.name}` tries again",
            )


def unit_disabled(seen: Observations) -> Iterator[Found]:
    """Units that do not run at the next boot."""
    for unit in seen.units:
        if unit.enabled == "disabled" and unit.active != "failed" and unit.name != FAIL_FAST:
            yield Found(
                f"{unit.name} is not enabled",
                advice=f"`systemctl enable {unit.name}`; after a reboot this node would not find its API server by "
                "itself",
            )


def unit_inactive(seen: Observations) -> Iterator[Found]:
    """What starts the services is active all the time; they are not."""
    idle = [u.name for u in seen.units if _watches(u) and (u.active, u.enabled) == ("inactive", "enabled")]
    if idle:
        yield Found(
            f"enabled, but not active: {' and '.join(idle)}: nothing is started from there until the next reboot",
            advice=f"`systemctl start {' '.join(idle)}`",
        )


def _watches(unit: UnitState) -> bool:
    return unit.name.endswith((".timer", ".path"))


def unit_missing(seen: Observations) -> Iterator[Found]:
    """Units that are not installed."""
    missing = [unit.name for unit in seen.units if unit.load == "not-found"]
    if missing:
        yield Found(f"not installed: {', '.join(missing)}")
    if bare := [unit.name for unit in seen.units if not unit.sandboxed]:
        yield Found(
            f"not installed: {SANDBOX}, so these run without a sandbox: {', '.join(bare)}",
            advice="run `apiha install`; it puts the drop-in back",
        )


def kubeconfig(seen: Observations) -> Iterator[Found]:
    """A kubelet that does not use the name; one of a control plane may ask the API server beside it (kubeadm's way)."""
    server, host, port = seen.kubelet.server, seen.config.host, seen.config.port
    if seen.config.role == "control-plane" or server is None or is_url_of(server, host, port):
        return
    wanted = f"https://{host}:{port}"
    yield Found(
        f"{seen.kubelet.path}: server: {server} is not {wanted}: kubelet does not use what apiha writes",
        advice=f"`apiha install --now --kubelet`, or set server: {wanted} and restart kubelet",
    )


def cloud_init(seen: Observations) -> Iterator[Found]:
    """A cloud-init that rewrites the hosts file."""
    for name, number in seen.rewritten_by:
        yield Found(
            f"{name}:{number}: manage_etc_hosts is on: cloud-init rewrites the hosts file at each boot"
        )


def nsswitch(seen: Observations) -> Iterator[Found]:
    """Resolvers that do not read the hosts file."""
    if seen.nsswitch is not None and "files" not in seen.nsswitch:
        yield Found(
            "/etc/nsswitch.conf: the line hosts: does not name files, so no program reads the hosts file"
        )
