"""The commands of a node. What a command does is in the module that it calls.

Modules are imported inside the commands that need them: a worker's boot waits for `apiha pin-host`, not for what
`apiha status` would load.
"""

from __future__ import annotations

import json

import click

from apiha.cli.options import DRY_RUN, DURATION, OUTPUT, Invocation, configured, print_result
from apiha.errors import ConfigError, ExitCode


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
    pin(invocation.node(), address=address, wait=wait)


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

    wait_vip(invocation.node(), timeout=timeout or None)


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

    bootstrap(invocation.node(), pin_only=pin_only, timeout=timeout or None)


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
    reconcile.reconcile(node)


@click.command("status", short_help="Say what is wrong with this node.")
@configured
@OUTPUT
def status_command(invocation: Invocation, output: str) -> int:
    """Say what the block says, what answers, what the units do, and what is wrong.

    Exit code 0 if there is no error (a warning is none), 3 if no control plane answers, 9 for any other error; 5 with
    a configuration that cannot be used: what can be told without is told all the same.
    """
    from apiha.status.checks import judge
    from apiha.status.machine import look, look_unconfigured
    from apiha.status.show import status_json, status_text

    unusable = None
    try:
        seen = look(invocation.config(), invocation.hosts_file, invocation.state_dir)
    except ConfigError as error:
        unusable = error
        seen = look_unconfigured(error, invocation.hosts_file, invocation.state_dir)
    status = judge(seen)
    print_result(json.dumps(status_json(status), indent=2) if output == "json" else status_text(status))
    if unusable is not None:
        raise unusable  # its line on stderr, its exit code
    return status.exit_code


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
    unpin_command,
)
