"""The commands of the cluster side: what is applied to the cluster, and what runs in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from apiha.cli.options import DURATION, Invocation, print_result
from apiha.errors import ConfigError


@click.command("manifests")
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
    image: str,
    vips: tuple[str, ...],
    namespace: str,
    create_namespace: bool,
    host: str | None,
    port: str | None,
    output_dir: Path | None,
    dry_run: bool,
    kubeconfig: Path | None,
) -> int:
    """Print what runs inside the cluster, ready for `kubectl apply -f -`: the Service, its updater, their rights.

    \b
    Look first:  apiha manifests --vip 10.96.0.100 --image IMAGE --dry-run
    Apply:       apiha manifests --vip 10.96.0.100 --image IMAGE | kubectl apply -f -
    Remove:      apiha manifests --vip 10.96.0.100 --image IMAGE | kubectl delete -f -

    --dry-run asks the cluster through kubectl: is the VIP inside the Service CIDR and free, may you apply this, would
    the API server accept it, is each control plane's certificate valid for the host? One line for each check, with what
    to do if it failed. Exit code 0, 5 (does not fit the cluster), 6 (not permitted), 3 (no API server answers), 9
    (several of these).
    """
    from apiha.manifests.render import checked_values, one_stream, render, write_base

    if dry_run and output_dir is not None:
        raise click.UsageError("--dry-run writes nothing; give it without --output-dir")
    if kubeconfig is not None and not dry_run:
        raise click.UsageError("--kubeconfig is for --dry-run; rendering asks no cluster")
    given = {"host": host, "port": port}
    invocation.flags.update({key: text for key, text in given.items() if text is not None})
    config = invocation.config()
    wanted = vips or ((config.vip,) if config.vip else ())
    values = checked_values(
        image, wanted, namespace, config.host, config.port, create_namespace=create_namespace
    )
    files = render(values)
    if dry_run:
        from apiha.findings import exit_code
        from apiha.manifests.check import check
        from apiha.manifests.judge import text_of
        from apiha.manifests.kubectl import Kubectl

        findings = check(values, one_stream(files.values()), Kubectl(kubeconfig))
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


@click.command("updater")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    envvar="KUBECONFIG",
    metavar="FILE",
    help="The cluster and who we are there.  [default: the Pod's service account]",
)
@click.option(
    "--namespace", default="kube-system", show_default=True, metavar="NAME", help="The Service's namespace."
)
@click.option(
    "--service",
    default="apiserver",
    show_default=True,
    metavar="NAME",
    help="The Service whose slices are kept.",
)
@click.option(
    "--vip",
    multiple=True,
    metavar="IP",
    help="The clusterIPs that the Service should have; told when it has others.",
)
@click.option(
    "--host",
    metavar="NAME",
    help="The name the API servers' certificates carry.  [default: apiserver.cluster.local]",
)
@click.option(
    "--identity",
    default="",
    metavar="NAME",
    help="This replica's name in the Lease.  [default: the hostname and a number]",
)
@click.option(
    "--lease-duration",
    type=DURATION,
    default="15s",
    show_default=True,
    help="Until a dead leader is replaced.",
)
@click.option(
    "--renew-deadline",
    type=DURATION,
    default="10s",
    show_default=True,
    help="Until a leader that cannot renew stops.",
)
@click.option(
    "--retry-period", type=DURATION, default="2s", show_default=True, help="Between two looks at the Lease."
)
@click.option(
    "--health-interval",
    type=DURATION,
    default="1s",
    show_default=True,
    help="Between two probes of a control plane.",
)
@click.option(
    "--health-failures",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="In a row, to turn one off.",
)
@click.option("--no-health-check", is_flag=True, help="Mirror what `kubernetes` says, and nothing else.")
@click.option(
    "--resync", type=DURATION, default="5m", show_default=True, help="Until everything is listed anew."
)
@click.option(
    "--listen",
    default=":8080",
    show_default=True,
    metavar="[IP]:PORT",
    help="For /metrics, /healthz and /readyz.",
)
@click.pass_obj
def updater_command(
    invocation: Invocation, /, vip: tuple[str, ...], host: str | None, no_health_check: bool, **options: Any
) -> None:
    """Keep the Service's EndpointSlices equal to the live control planes: what runs in the cluster.

    Watches the endpoints of default/kubernetes, probes each control plane, and writes while it holds the Lease
    `apiserver-updater`. Needs `pip install apiha[updater]`. In a Pod it reaches the API server by the Service
    `kubernetes`, and then a live control plane directly; never by the Service that it feeds.
    """
    try:
        from apiha.updater.run import Settings, Updater
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "apiha":
            raise  # a broken installation, which the extra would not mend
        raise ConfigError("the updater needs `pip install apiha[updater]`") from None

    vips = vip or ((invocation.flags.get("vip") or os.environ.get("APIHA_VIP") or ""),)
    settings = Settings(
        vips=tuple(part.strip() for text in vips for part in text.split(",") if part.strip()),
        host=host or invocation.flags.get("host") or os.environ.get("APIHA_HOST") or Settings.host,
        health_check=not no_health_check,
        **options,
    )
    Updater(settings, invocation.report).run()


COMMANDS = (manifests_command, updater_command)
