"""Looks at the machine and at its addresses: what `apiha status` and `apiha probe` see. Nothing is judged here."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from apiha.config import Config, require_control_plane
from apiha.endpoint import Endpoint
from apiha.errors import ApihaError, ConfigError, NotPermitted
from apiha.failfast import kernel
from apiha.hosts import HostsFile, current, find_foreign, parse
from apiha.install.machine import cloud_init_rewrites
from apiha.install.units import SANDBOX, UNITS
from apiha.node import memory
from apiha.node.context import LOOPBACK
from apiha.node.learned import fetch_cluster_uid, node_prober
from apiha.node.trial import ask_vip
from apiha.paths import KUBELET_KUBECONFIG
from apiha.probe import Health, Prober, ProbeResult, probe_all
from apiha.status.model import (
    Answer,
    CaView,
    FailFastView,
    HostsFileView,
    KubeletView,
    Observations,
    UnitState,
)
from apiha.trust import fingerprint, load_ca, read_kubeconfig


def look(
    config: Config, hosts_file: Path, state_dir: Path, *, now: datetime | None = None, root: Path = Path("/")
) -> Observations:
    """Look at everything; errors become part of what was seen, not exceptions.

    `now` is this machine's clock (UTC); below `root` is what other programs are configured with.
    """
    hosts = look_at_hosts(config, hosts_file, state_dir)
    swapped = hosts.block is not None and hosts.block.addresses[:1] == (config.vip,)
    answers: list[Answer] = []
    config_error = ""
    try:
        answers = probe_addresses(config, state_dir, swapped=swapped)
    except ConfigError as error:
        config_error = str(error)
    found = _found(
        config, hosts, state_dir, answers, config_error, now=now or datetime.now(timezone.utc), root=root
    )
    return replace(found, units=unit_states(), fail_fast=_look_at_fail_fast())


def look_after_pass(
    config: Config,
    hosts_file: Path,
    state_dir: Path,
    results: Iterable[ProbeResult],
    *,
    now: datetime,
    ask: bool = False,
    root: Path = Path("/"),
) -> Observations:
    """What a pass can see when it has done its work: `results` are those of its own probes.

    The sandbox keeps systemd and the kernel's table from it: these two are not looked at. With `ask` a control-plane
    node, which asks nobody before it writes its block, asks now.
    """
    answers = [Answer("vip" if r.endpoint == config.vip_endpoint else "control-plane", r) for r in results]
    config_error = ""
    if ask and config.role == "control-plane":
        try:
            answers = probe_addresses(config, state_dir)
        except ConfigError as error:
            config_error = str(error)
    answers.sort(key=lambda answer: (answer.role, answer.result.endpoint))
    hosts = look_at_hosts(config, hosts_file, state_dir)
    return _found(config, hosts, state_dir, answers, config_error, now=now, root=root)


def _found(
    config: Config,
    hosts: HostsFileView,
    state_dir: Path,
    answers: Iterable[Answer],
    config_error: str,
    *,
    now: datetime,
    root: Path,
) -> Observations:
    """What a pass and an administrator both see."""
    known = memory.load(state_dir)
    return Observations(
        config,
        now,
        hosts=hosts,
        sources=sources(hosts.block.addresses if hosts.block else ()),
        ca=look_at_ca(config),
        config_error=config_error,
        control_planes=tuple(_control_planes(config, known)),
        drained=known.drained,
        all_known=_may_read_learned(state_dir),
        answers=tuple(answers),
        kubelet=_look_at_kubelet(root),
        rewritten_by=cloud_init_rewrites(root),
        nsswitch=_nsswitch(root),
    )


def look_unconfigured(
    error: ConfigError, hosts_file: Path, state_dir: Path, *, root: Path = Path("/")
) -> Observations:
    """What can be seen without a configuration: the block, for the name that it gives itself, and the units."""
    config = Config(host=_host_of_block(hosts_file, state_dir) or Config.host)
    return Observations(
        config,
        datetime.now(timezone.utc),
        hosts=look_at_hosts(config, hosts_file, state_dir),
        configured=False,
        config_error=str(error),
        all_known=False,
        units=unit_states(),
        rewritten_by=cloud_init_rewrites(root),
        nsswitch=_nsswitch(root),
    )


def probe_addresses(config: Config, state_dir: Path, *, swapped: bool | None = None) -> list[Answer]:
    """Probe all control planes, configured and learned, and the VIP, all at once. Raises ConfigError.

    `swapped` is whether the block says VIP first; None asks each address once and no more. Else the VIP is judged as
    a reconcile judges it, by several probes, and each address that answers is asked which cluster it belongs to.
    A certificate that only this machine's clock speaks against is looked at once more without the clock, so that its
    dates and the server's time can be told; the answer stays untrusted.
    """
    control_planes = _control_planes(config, memory.load(state_dir))
    vip = [config.vip_endpoint] if config.vip_endpoint else []
    if not control_planes and not vip:
        require_control_plane(config)
    prober = Prober.from_config(config)

    def probe(endpoint: Endpoint) -> ProbeResult:
        if swapped is None or endpoint not in vip:
            return prober.probe(endpoint)
        return ask_vip(lambda: prober.probe(endpoint), swapped=swapped, pause=time.sleep)

    results = probe_all(probe, control_planes + vip)
    if swapped is not None:
        results = _told_apart(config, state_dir, results)
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


def _told_apart(config: Config, state_dir: Path, results: list[ProbeResult]) -> list[ProbeResult]:
    """The results, with those of another cluster that shares the CA as untrusted, as a reconcile has it.

    As far as that can be told: it takes a client certificate that may read the namespace kube-system, and a memory.
    """
    known = memory.load(state_dir).cluster
    if known.uid is None:
        return results
    try:
        ca = None if config.insecure_skip_tls_verify else fingerprint(load_ca(config).pem)
        with node_prober(config) as identified:

            def ask(result: ProbeResult) -> ProbeResult:
                if not result.health.usable:
                    return result
                with contextlib.suppress(Exception):  # a stranger's bytes: then it cannot be told
                    seen = memory.Cluster(fetch_cluster_uid(identified, result.endpoint), ca)
                    if seen.differs(known) and not seen.moved(known):
                        return replace(result, health=Health.UNTRUSTED, detail="it leads to another cluster")
                return result

            by_endpoint = {result.endpoint: result for result in results}
            return probe_all(
                lambda endpoint: ask(by_endpoint[endpoint]), [result.endpoint for result in results]
            )
    except ConfigError:  # no client certificate yet, or not root
        return results


def _control_planes(config: Config, known: memory.Memory) -> list[Endpoint]:
    """This node's own API server if it has one, then the configured control planes, then the learned ones."""
    own = [Endpoint(LOOPBACK, config.port)] if config.role == "control-plane" else []
    return own + list(dict.fromkeys([*config.control_plane, *known.endpoints]))


def _may_read_learned(state_dir: Path) -> bool:
    """Whether this user may see what was learned; the state folder is root's."""
    try:
        (state_dir / memory.FILE).stat()
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def look_at_hosts(config: Config, hosts_file: Path, state_dir: Path) -> HostsFileView:
    """The block, other lines for the name, and whether a write was interrupted."""
    file = HostsFile(hosts_file, state_dir=state_dir)
    try:
        data = file.read()
    except ApihaError as error:
        return HostsFileView(hosts_file, error=str(error))
    return HostsFileView(
        hosts_file,
        current(data, config.host),
        foreign=tuple(find_foreign(data, config.host)),
        backup=file.interrupted(),
        rivalry=file.rivalry(),
    )


def sources(addresses: Iterable[str]) -> dict[str, str]:
    """This machine's own address for the way to each of these. Sends nothing: that is what connecting UDP does."""
    found = {}
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # the port does not matter
            found[address] = str(probe.getsockname()[0])
    return found


def _host_of_block(hosts_file: Path, state_dir: Path) -> str | None:
    """The name in the block's first line, if there is one."""
    try:
        text = parse(HostsFile(hosts_file, state_dir=state_dir).read())
    except ApihaError:
        return None
    entries = [line.split() for block in text.blocks for line in block.lines]
    names = (words[1] for words in entries if len(words) > 1 and not words[0].startswith(b"#"))
    return next((name.decode("ascii", "replace") for name in names), None)


def look_at_ca(config: Config) -> CaView:
    """The CA that control planes must prove themselves with; of several the one that lasts longest (a rotation)."""
    if config.insecure_skip_tls_verify:
        return CaView()
    try:
        authority = load_ca(config)
    except ConfigError as error:
        return CaView(error=str(error), hidden=os.strerror(errno.EACCES) in str(error))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=authority.pem)
    except (ssl.SSLError, ValueError):
        return CaView(authority.source, error=f"{authority.source}: holds no certificate")
    ends = [certificate.get("notAfter") for certificate in context.get_ca_certs()]
    dates = [
        datetime.fromtimestamp(ssl.cert_time_to_seconds(end), timezone.utc)
        for end in ends
        if isinstance(end, str)
    ]
    return CaView(authority.source, max(dates, default=None))


def unit_states() -> tuple[UnitState, ...]:
    """The state of apiha's units; empty where systemd does not run."""
    properties = ("Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "DropInPaths")
    command = ["systemctl", "show", "--property", ",".join(properties), "--", *UNITS]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    states = []
    for paragraph in shown.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in paragraph.splitlines() if "=" in line)
        name, load, active, sub, enabled = (values.get(key, "") for key in properties[:5])
        runs = load == "loaded" and name.endswith(".service")
        sandboxed = not runs or SANDBOX in values.get("DropInPaths", SANDBOX)
        states.append(UnitState(name, load, active, sub, enabled, sandboxed))
    return tuple(states)


def _look_at_fail_fast() -> FailFastView:
    try:
        return FailFastView(kernel.read())
    except NotPermitted:
        return FailFastView(hidden=True)
    except ApihaError as error:  # this machine cannot do it, or the name is taken
        return FailFastView(problem=str(error))


def _look_at_kubelet(root: Path) -> KubeletView:
    path = root / KUBELET_KUBECONFIG.relative_to("/")
    try:
        return KubeletView(path, read_kubeconfig(path).server)
    except ConfigError:  # not joined yet, not root, or so broken that kubelet says so itself
        return KubeletView(path)


def _nsswitch(root: Path) -> tuple[str, ...] | None:
    """The words of the line `hosts:`, nsswitch.conf(5); None if there is no such line."""
    try:
        lines = (root / "etc/nsswitch.conf").read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((tuple(line.split("#")[0].split()) for line in lines if line.startswith("hosts:")), None)
