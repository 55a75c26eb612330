"""The commands of a node. What a command does is in the module that it calls.

Modules are imported inside the commands that need them: a worker's boot waits for `apiha pin-host`, not for what
`apiha status` would load.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from apiha.cli.options import DRY_RUN, DURATION, OUTPUT, Invocation, configured, dry_run, print_result
from apiha.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from apiha.node.context import Node
    from apiha.status.model import Status


def _told(node: Node, *, ask: bool = False) -> AbstractContextManager[None]:
    """Around a pass: `apiha.status.textfile.told`, which is loaded only where somebody wants metrics."""
    if node.config.textfile_dir is None:
        return nullcontext()
    from apiha.status.textfile import told

    return told(node, ask=ask)


@click.command("probe", short_help="Ask all control planes and the VIP at once.")
@configured
@OUTPUT
def probe_command(invocation: Invocation, output: str) -> int:
    """Ask all control planes, configured and learned, and the VIP at once, and say what answers.

    Exit code 0 if a control plane is ready, 3 if none is. States: ready; alive (401 or 403: genuine, but it hides its
    readiness, see client_cert); not-ready; refused; timeout; unreachable; untrusted (its certificate does not prove
    that it belongs to the cluster); broken (no TLS, no HTTP, connection reset).
    """
    from apiha.probe import Health
    from apiha.status.machine import probe_addresses
    from apiha.status.show import probe_json, probe_table

    config = invocation.config()
    answers = probe_addresses(config, invocation.state_dir)
    print_result(json.dumps(probe_json(answers), indent=2) if output == "json" else probe_table(answers))
    return (
        0
        if any(a.role == "control-plane" and a.result.health is Health.READY for a in answers)
        else ExitCode.NO_CONTROL_PLANE
    )


@click.command("pin-host", short_help="Point the name at a live control plane.")
@configured
@click.argument("address", required=False)
@click.option(
    "--wait",
    type=DURATION,
    default="0s",
    metavar="DURATION",
    help="Keep trying for this long.  [default: one try]",
)
@DRY_RUN
def pin_host_command(invocation: Invocation, address: str | None, wait: float) -> None:
    """Point the name at a live control plane.

    Tries the control planes in this node's own order, the next one after hedge_delay without an answer, and writes the
    first ready one into the hosts file, the others after it as fallbacks. ADDRESS picks one by hand; it must
    prove itself all the same.
    """
    from apiha.node.pin import pin

    if address is not None:
        from apiha.endpoint import Endpoint

        try:
            Endpoint.parse(address, 1)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="ADDRESS") from None
    node = invocation.node()
    with _told(node):
        pin(node, address=address, wait=wait)


@click.command("wait-vip", short_help="Wait for the VIP, then point the name at it.")
@configured
@click.option(
    "--timeout",
    type=DURATION,
    default="0s",
    metavar="DURATION",
    help="Give up after this long; 0 is never.  [default: 0]",
)
@DRY_RUN
def wait_vip_command(invocation: Invocation, timeout: float) -> None:
    """Wait until the VIP proves itself (3 answers in a row), then point the name at it.

    Meanwhile the pinned control plane is looked at, and another one is pinned when it dies.
    """
    from apiha.node.wait import wait_vip

    node = invocation.node()
    with _told(node):
        wait_vip(node, timeout=timeout or None)


@click.command("bootstrap", short_help="pin-host, then wait-vip.")
@configured
@click.option("--pin-only", is_flag=True, help="Stop once the name points at a live control plane.")
@click.option(
    "--timeout",
    type=DURATION,
    default="5m",
    show_default=True,
    metavar="DURATION",
    help="For both steps together; 0 tries once to pin, and waits for the VIP for ever.",
)
@DRY_RUN
def bootstrap_command(invocation: Invocation, pin_only: bool, timeout: float) -> None:
    """Pin, then wait for the VIP and swap: the whole way, by hand or from cloud-init.

    Before kubelet runs on this node the VIP cannot answer (kubelet starts kube-proxy): use --pin-only there.
    """
    from apiha.node.wait import bootstrap

    node = invocation.node()
    with _told(node):
        bootstrap(node, pin_only=pin_only, timeout=timeout or None)


@click.command("reconcile", short_help="Put the block right: one pass.")
@configured
@click.option(
    "--settle",
    is_flag=True,
    help="Wait 1 s first, and up to 30 s while another program keeps changing the block.",
)
@DRY_RUN
def reconcile_command(invocation: Invocation, settle: bool) -> None:
    """Put the block right if it is not: one short pass.

    The VIP answers: VIP first. It does not: a live control plane first. Nothing answers: the block stays as it is, exit
    code 3. Run by apiha-reconcile.timer and, when the hosts file changes, by apiha-reconcile.path.
    """
    from apiha.node import reconcile

    node = invocation.node()
    if settle:
        reconcile.settle(node)
    with _told(node, ask=True):
        reconcile.reconcile(node)


@click.command("status", short_help="Say what is wrong with this node.")
@configured
@OUTPUT
@click.option("--watch", "watched", is_flag=True, help="Look again every 2 s and redraw, until ^C.")
def status_command(invocation: Invocation, output: str, watched: bool) -> int:
    """Say what the block says, what answers, what the units do, and what is wrong.

    Exit code 0 if there is no error (warnings are allowed), 3 if no control plane answers, 9 for any other error; 5
    with a configuration that cannot be used: what can be told without is told all the same.
    """
    from apiha.status.show import status_json, status_text

    if watched:
        if output == "json":
            raise click.UsageError(
                "--watch is for people: give it without -o json, or repeat `apiha status -o json`"
            )
        return _watch(invocation)
    status, unusable = _status_now(invocation)
    print_result(json.dumps(status_json(status), indent=2) if output == "json" else status_text(status))
    if unusable is not None:
        raise unusable  # its line on stderr, its exit code
    return status.exit_code


def _status_now(invocation: Invocation) -> tuple[Status, ConfigError | None]:
    """The status, and why the configuration cannot be used if that is so."""
    from apiha.status.checks import judge
    from apiha.status.machine import look, look_unconfigured

    try:
        return judge(look(invocation.config(), invocation.hosts_file, invocation.state_dir)), None
    except ConfigError as error:
        return judge(look_unconfigured(error, invocation.hosts_file, invocation.state_dir)), error


def _watch(invocation: Invocation) -> int:
    import io
    import os
    import sys
    from dataclasses import replace

    from apiha.clock import SystemClock
    from apiha.log import Reporter
    from apiha.status.watch import watch

    quiet = replace(invocation)  # a warning at each look would spoil the screen; the status has what matters
    quiet.report = Reporter(io.StringIO())

    def size() -> tuple[int, int]:
        columns, lines = os.get_terminal_size(sys.stdout.fileno())
        return columns or 80, lines or 24  # a serial line does not know its size

    def write(text: str) -> None:
        print_result(text, newline=False)

    draws = os.environ.get("TERM", "dumb") != "dumb"
    terminal = draws and sys.stdout is not None and sys.stdout.isatty()
    return watch(lambda: _status_now(quiet)[0], write, SystemClock(), size if terminal else None)


@click.command("report", short_help="Put what an issue needs into one archive.")
@configured
@click.argument("file", required=False, type=click.Path(path_type=Path))
@dry_run("List what would be in it; write nothing.")
def report_command(invocation: Invocation, file: Path | None) -> None:
    """Put everything that an issue needs into one archive, FILE, and say first what is in it.

    The status, the settings, what the units said since the boot, apiha's nftables tables, the hosts file. Lines of the
    hosts file outside the block are masked, in all of it, as is what looks like a key, a token or a password. No
    certificate and no key is read for it. Run it as root. FILE: apiha-report-TIME.tar.gz in this folder.
    """
    import sys

    from apiha.clock import SystemClock
    from apiha.columns import columns
    from apiha.hosts import HostsFile
    from apiha.status.report import archive, collect, require_new, write

    if file == Path("-"):  # stdout for many programs; a file of that name is hard to remove
        raise click.UsageError("FILE is the name of a file; a report does not go to stdout")
    now = SystemClock().now()
    path = file or Path(f"apiha-report-{now.strftime('%Y%m%dT%H%M%SZ')}.tar.gz")
    require_new(path)
    status, unusable = _status_now(invocation)
    pieces = collect(status, unusable, HostsFile(invocation.hosts_file, state_dir=invocation.state_dir))
    rows = [[piece.name, f"{len(piece.data)} bytes", piece.what] for piece in pieces]
    print_result(f"In {path}:\n{columns(rows, indent='  ')}")
    if invocation.preview is not None:
        return
    asked = sys.stdin is not None and sys.stdin.isatty()
    if asked and not click.confirm("Write it?", default=True, err=True):
        return
    write(path, archive(pieces, now))
    invocation.report.info(f"wrote {path}: look through it before you attach it; it names your addresses")


@click.command("unpin", short_help="Remove the block from the hosts file.")
@configured
@DRY_RUN
def unpin_command(invocation: Invocation) -> None:
    """Remove the block from the hosts file, and restore the lines that `on_conflict: adopt` commented out.

    On an installed node apiha-reconcile.path puts the block back within seconds: stop that unit and
    apiha-reconcile.timer first, or `apiha uninstall`.
    """
    from apiha.hosts import HostsFile
    from apiha.node.pin import unpin

    try:
        host = invocation.config().host
    except ConfigError as error:  # the way out must not depend on it
        invocation.report.warning(f"{error}; the block is removed all the same")
        host = None
    hosts = HostsFile(invocation.hosts_file, state_dir=invocation.state_dir, preview=invocation.preview)
    unpin(hosts, host, invocation.report)


COMMANDS = (
    probe_command,
    pin_host_command,
    wait_vip_command,
    bootstrap_command,
    reconcile_command,
    status_command,
    report_command,
    unpin_command,
)
