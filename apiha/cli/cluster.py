"""The command that runs in the cluster: the updater."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from apiha.cli.options import DURATION, Invocation, Parsed, at_least
from apiha.errors import ConfigError
from apiha.settings import SETTINGS

_SETTINGS = {setting.key: setting for setting in SETTINGS}


def _of_setting(key: str) -> str | None:
    """What the group's flag or the environment says for a setting that a command has an option of its own for."""
    context = click.get_current_context(silent=True)
    invocation = context.find_object(Invocation) if context is not None else None
    given = invocation.flags.get(key) if invocation is not None else None
    return given or os.environ.get(_SETTINGS[key].variable) or None


def _in_updater(function: str) -> Callable[..., Any]:
    """A function of `apiha.updater.settings`, which is imported when the function is called."""

    def call(*arguments: str) -> Any:
        from apiha.updater import settings

        return getattr(settings, function)(*arguments)

    return call


def _together(
    _ctx: click.Context, _param: click.Parameter, values: Sequence[tuple[str, ...]]
) -> tuple[str, ...]:
    return tuple(one for value in values for one in value)


@click.command("updater", short_help="Keep the Service equal to the control planes (in a Pod).")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    envvar="KUBECONFIG",
    metavar="FILE",
    help="The cluster and who we are there.  [default: the Pod's service account]",
)
@click.option(
    "--namespace",
    type=Parsed("name", _in_updater("parse_name")),
    default="kube-system",
    show_default=True,
    metavar="NAME",
    help="The Service's namespace.",
)
@click.option(
    "--service",
    type=Parsed("name", _in_updater("parse_name")),
    default="apiserver",
    show_default=True,
    metavar="NAME",
    help="The Service whose slices are kept.",
)
@click.option(
    "--vip",
    "vips",
    type=Parsed("ip", _in_updater("parse_vips")),
    multiple=True,
    default=lambda: [text for text in (_of_setting("vip"),) if text],
    callback=_together,
    metavar="IP",
    help="The clusterIPs that the Service should have; others are reported.",
)
@click.option(
    "--host",
    type=Parsed("host", _SETTINGS["host"].from_text),
    default=lambda: _of_setting("host") or "apiserver.cluster.local",
    metavar="NAME",
    help="The name the API servers' certificates carry.  [default: apiserver.cluster.local]",
)
@click.option(
    "--identity",
    default=_in_updater("default_identity"),
    metavar="NAME",
    help="This replica's name in the Lease.  [default: the hostname and a number]",
)
@click.option(
    "--lease-duration",
    type=DURATION,
    default="8s",
    show_default=True,
    help="How long a dead leader keeps its Lease.",
)
@click.option(
    "--renew-deadline",
    type=DURATION,
    default="6s",
    show_default=True,
    help="When a leader that cannot renew its Lease stops writing.",
)
@click.option(
    "--retry-period",
    type=DURATION,
    default="2s",
    show_default=True,
    help="Between two renewals, or two looks at another's Lease.",
)
@click.option(
    "--health-interval",
    type=at_least(0.1, "100ms"),
    default="1s",
    show_default=True,
    help="Between two probes of a control plane.",
)
@click.option(
    "--health-failures",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Failed probes in a row that turn a control plane off.",
)
@click.option("--no-health-check", is_flag=True, help="Mirror what `kubernetes` says, and nothing else.")
@click.option(
    "--resync",
    type=at_least(1.0, "1s"),
    default="5m",
    show_default=True,
    help="How often everything is listed again.",
)
@click.option(
    "--listen",
    type=Parsed("listen", _in_updater("parse_listen")),
    default=":8080",
    show_default=True,
    metavar="[IP]:PORT",
    help="For /metrics, /healthz and /readyz.",
)
@click.pass_obj
def updater_command(invocation: Invocation, /, *, no_health_check: bool, **options: Any) -> None:
    """Keep the Service's EndpointSlices equal to the live control planes: what runs in the cluster.

    Watches the endpoints of default/kubernetes, probes each control plane, and writes while it holds the Lease
    `apiserver-updater`. Needs `pip install apiha[updater]`. In a Pod it reaches the API server by the Service
    `kubernetes`, and then a live control plane directly; never by the Service that it feeds.
    """
    try:
        from apiha.updater.process import Updater
        from apiha.updater.settings import Settings
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "apiha":
            raise  # a broken installation, which the extra would not fix
        raise ConfigError("the updater needs `pip install apiha[updater]`") from None

    Updater(Settings(health_check=not no_health_check, **options), invocation.report).run()


COMMANDS = (updater_command,)
