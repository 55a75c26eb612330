"""The commands of an administrator, for any machine with an admin kubeconfig; modules are imported when they run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from apiha.cli.options import DURATION, OUTPUT, Invocation, Parsed, configured, print_result
from apiha.endpoint import Endpoint

KUBECONFIG = click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="An administrator's kubeconfig.  [default: what kubectl takes]",
)


def _address(text: str) -> str:
    """An address; one with a port, as `list` shows it, is as good. Raises ValueError."""
    return Endpoint.parse(text, 6443).address


@click.command("control-plane", short_help="Take a control plane out of service, and back.")
@configured
@click.argument("action", type=click.Choice(["list", "drain", "undrain"]))
@click.argument("address", required=False, type=Parsed("address", _address))
@KUBECONFIG
@click.option(
    "--namespace", default="kube-system", show_default=True, metavar="NAME", help="Where the Service is."
)
@click.option(
    "--timeout",
    type=DURATION,
    default="60s",
    show_default=True,
    help="How long to wait until the Service has followed.",
)
@click.option(
    "--settle",
    type=DURATION,
    default="10s",
    show_default=True,
    help="With `drain`: how long every kube-proxy gets to write its rules, after its minSyncPeriod.",
)
@OUTPUT
def control_plane_command(
    invocation: Invocation,
    action: str,
    address: str | None,
    kubeconfig: Path | None,
    namespace: str,
    timeout: float,
    settle: float,
    output: str,
) -> int:
    """Take a control plane out of service for maintenance, and back.

    \b
    list             all control planes: ready, drained, what is connected,
                     how many nodes have learned of it
    drain ADDRESS    no new connections go there; says when it is safe to stop
    undrain ADDRESS  take it back; says when it is ready

    Runs kubectl, on any machine with an admin kubeconfig. Exit code 12 if it is refused: for the last ready
    control plane, and for an address that is not a control plane's. Exit code 13 if the cluster does
    not follow within --timeout.
    """
    from apiha.admin import drain as drains
    from apiha.admin.cluster import Cluster
    from apiha.admin.show import planes_json, planes_table
    from apiha.clock import SystemClock
    from apiha.kubectl import Kubectl

    if (address is None) != (action == "list"):
        raise click.UsageError(
            "`list` takes no ADDRESS"
            if address is not None
            else f"which one? `control-plane {action} ADDRESS`"
        )
    if output == "json" and action != "list":
        raise click.UsageError(f"-o json is for `list`; `{action}` says with its exit code how it ended")
    config, report, clock = invocation.config(), invocation.report, SystemClock()
    cluster = Cluster(Kubectl(kubeconfig, purpose="control-plane"), namespace, config.host, config.port)
    if address is None:
        planes = cluster.planes(cluster.service())
        planes = replace(planes, planes=cluster.with_connections(planes.planes))
        learned, now = cluster.learned(), clock.now()
        if output == "json":
            print_result(json.dumps(planes_json(planes, learned, now), indent=2))
        else:
            print_result(planes_table(planes, learned, now))
    elif action == "drain":
        outcome = drains.drain(cluster, address, report, clock, timeout=timeout, settle=settle)
        print_result("\n".join(drains.safe(outcome)))
    else:
        drains.undrain(cluster, address, report, clock, timeout=timeout)
        print_result(f"{address} is ready: it gets new connections again")
    return 0


@click.command("nodes", short_help="Show all nodes, those first that need a look.")
@configured
@KUBECONFIG
@OUTPUT
def nodes_command(_: Invocation, kubeconfig: Path | None, output: str) -> int:
    """Show all nodes, those first that need a look, by what the API alone knows.

    Ready, the age of the Lease that kubelet renews, the versions of kubelet and kube-proxy; where `apiha manifests
    --installer` was applied, what the installer's Pod says. LOOK AT says what is wrong. Runs kubectl, on any machine
    with an admin kubeconfig. `apiha status` on a node knows more about that node. Exit code 0 whatever is found.
    """
    from apiha.admin.cluster import PROXY_LABEL, Cluster
    from apiha.admin.nodes import fleet_of
    from apiha.admin.show import nodes_json, nodes_table
    from apiha.clock import SystemClock
    from apiha.config import Config
    from apiha.kubectl import Kubectl

    # A node's configuration has nothing to do with it, and a broken one must not hide the fleet.
    cluster = Cluster(Kubectl(kubeconfig, purpose="nodes"), "kube-system", Config.host, Config.port)
    nodes, proxies = cluster.nodes(), cluster.pods(PROXY_LABEL)
    installers = cluster.installers({node.name for node in nodes if node.ready == "Unknown"})
    leases = cluster.leases()  # last: their ages are what changes while the others are read
    fleet = fleet_of(nodes, leases, proxies, installers, SystemClock().now())
    print_result(json.dumps(nodes_json(fleet), indent=2) if output == "json" else nodes_table(fleet))
    return 0


COMMANDS = (control_plane_command, nodes_command)
