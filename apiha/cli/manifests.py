"""`apiha manifests`: what is applied to the cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from apiha.cli.options import Invocation, print_result

_OF_INSTALLER = (
    "--kubelet",
    "--remove",
    "--control-plane",
    "--toleration",
    "--node-selector",
    "--max-unavailable",
)
_OF_CLUSTER_SIDE = ("--create-namespace", "--pod-monitor", "--dashboard")


@click.command("manifests", short_help="Print the objects of the cluster side.")
@click.option("--image", required=True, metavar="IMAGE", help="The image of the updater, as nodes pull it.")
@click.option(
    "--vip",
    "vips",
    multiple=True,
    metavar="ADDR",
    help="The clusterIP: a free address of the Service CIDR. Twice for dual stack, the primary family first.",
)
@click.option(
    "--namespace",
    default="kube-system",
    show_default=True,
    metavar="NAME",
    help="Where the Service and the updater go; it must exist.",
)
@click.option(
    "--create-namespace",
    is_flag=True,
    help="Add the Namespace. Not when you delete: it would take all else in there along.",
)
@click.option("--host", metavar="NAME", help="The name that kubeconfigs and the serving certificates carry.")
@click.option("--port", metavar="PORT", help="The port of the VIP; that of the control planes.")
@click.option("--pod-monitor", is_flag=True, help="Add a PodMonitor for the Prometheus Operator.")
@click.option(
    "--network-policy", is_flag=True, help="Add a NetworkPolicy: for networks that deny by default."
)
@click.option("--dashboard", is_flag=True, help="Add a ConfigMap with the dashboard for Grafana's sidecar.")
@click.option(
    "--installer",
    is_flag=True,
    help="Print the installer instead: a DaemonSet that keeps apiha installed on the workers.",
)
@click.option(
    "--kubelet",
    is_flag=True,
    help="With --installer: also point kubelet.conf at the name, as `apiha install --kubelet` does.",
)
@click.option(
    "--remove", is_flag=True, help="With --installer: one that uninstalls; ready once nothing is left."
)
@click.option(
    "--control-plane",
    metavar="ADDR,...",
    help="With --installer: the control planes, for each node's new configuration.",
)
@click.option(
    "--toleration",
    "tolerations",
    multiple=True,
    metavar="TAINT",
    help="With --installer: workers with this taint too, KEY[=VALUE][:EFFECT]; * is every taint.",
)
@click.option(
    "--node-selector",
    "selectors",
    multiple=True,
    metavar="KEY=VALUE",
    help="With --installer: only workers with this label.",
)
@click.option(
    "--max-unavailable",
    default="1",
    show_default=True,
    metavar="N",
    help="With --installer: how many nodes at a time (or N%) a rollout may touch.",
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a kustomize base there instead of printing.",
)
@click.option("--dry-run", is_flag=True, help="Print nothing; check whether it would work in the cluster.")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The cluster for --dry-run.  [default: what kubectl takes]",
)
@click.pass_obj
def manifests_command(
    invocation: Invocation,
    /,
    image: str,
    vips: tuple[str, ...],
    namespace: str,
    create_namespace: bool,
    host: str | None,
    port: str | None,
    pod_monitor: bool,
    network_policy: bool,
    dashboard: bool,
    installer: bool,
    kubelet: bool,
    remove: bool,
    control_plane: str | None,
    tolerations: tuple[str, ...],
    selectors: tuple[str, ...],
    max_unavailable: str,
    output_dir: Path | None,
    dry_run: bool,
    kubeconfig: Path | None,
) -> int:
    """Print what runs inside the cluster, ready for `kubectl apply -f -`: the Service, its updater, their rights.

    \b
    Look first:  apiha manifests --vip 10.96.0.100 --image IMAGE --dry-run
    Apply:       apiha manifests --vip 10.96.0.100 --image IMAGE | kubectl apply -f -
    Remove:      apiha manifests --vip 10.96.0.100 --image IMAGE | kubectl delete -f -
    On workers:  apiha manifests --vip 10.96.0.100 --image IMAGE --installer | kubectl apply -f -

    --dry-run asks the cluster through kubectl: is the VIP inside the Service CIDR and free, may you apply this, would
    the API server accept it, is each control plane's certificate valid for the host? One line for each check, with what
    to do if it failed. Exit code 0, 5 (does not fit the cluster), 6 (not permitted), 3 (no API server answers), 9
    (several of these).
    """
    from apiha.manifests.installer import checked_installer, render_installer
    from apiha.manifests.render import checked_values, one_stream, render, write_base

    if dry_run and output_dir is not None:
        raise click.UsageError("--dry-run writes nothing; give it without --output-dir")
    if kubeconfig is not None and not dry_run:
        raise click.UsageError("--kubeconfig is for --dry-run; rendering asks no cluster")
    _check_installer_options(click.get_current_context())
    given = {"host": host, "port": port, "control_plane": control_plane}
    invocation.flags.update({key: text for key, text in given.items() if text is not None})
    config = invocation.config()
    wanted = vips or ((config.vip,) if config.vip else ())
    values = checked_values(
        image,
        wanted,
        namespace,
        config.host,
        config.port,
        create_namespace=create_namespace,
        vip_needed=not remove,
    )
    values = replace(values, pod_monitor=pod_monitor, network_policy=network_policy, dashboard=dashboard)
    if installer:
        told = checked_installer(
            config.control_plane, tolerations, selectors, max_unavailable, kubelet=kubelet, remove=remove
        )
        files = render_installer(values, told)
    else:
        files = render(values)
    if dry_run:
        from apiha.findings import exit_code
        from apiha.kubectl import Kubectl
        from apiha.manifests.check import check, check_installer
        from apiha.manifests.judge import text_of

        checks = check_installer if installer else check
        findings = checks(values, one_stream(files.values()), Kubectl(kubeconfig))
        for finding in findings:
            print_result(text_of(finding))
        return exit_code(findings)
    if output_dir is not None:
        written = write_base(output_dir, files)
        invocation.report.info(
            f"wrote {len(written)} files into {output_dir}: `kubectl apply -k {output_dir}`"
        )
        return 0
    print_result(one_stream(files.values()), newline=False)
    return 0


def _check_installer_options(context: click.Context) -> None:
    """Raises UsageError for an option that means nothing for what is printed."""
    here = [
        parameter.opts[0]
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    installer = "--installer" in here
    for option in here:
        if option in _OF_INSTALLER and not installer:
            raise click.UsageError(f"{option} is for --installer")
        if option in _OF_CLUSTER_SIDE and installer:
            raise click.UsageError(f"{option} is not for --installer; run it once more without")


COMMANDS = (manifests_command,)
