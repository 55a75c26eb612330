"""`apiha user-data`: what a machine that is still to come reads at its first boot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from apiha.cli.options import Invocation, at_least, configured, print_result
from apiha.config import Config, load
from apiha.errors import ConfigError

if TYPE_CHECKING:
    from apiha.kubectl import Kubectl
    from apiha.userdata.pieces import Plan, Program

FORMATS = ("cloud-config", "ignition", "butane")
PIECES = ("config", "ca", "runcmd", "units")
# Bytes, and whose limit it is: EC2's user data, Azure's custom data and Nova's user_data, a metadata value of Google's.
LIMITS = ((16 << 10, "EC2"), (64 << 10, "Azure and OpenStack"), (256 << 10, "Google Cloud"))


@click.command("user-data", short_help="Print what a new machine needs at its first boot.")
@configured
@click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    default="cloud-config",
    show_default=True,
    help="What the machine reads at its first boot.",
)
@click.option(
    "--print", "piece", type=click.Choice(PIECES), help="Print this piece only, for your own tools."
)
@click.option(
    "--join", is_flag=True, help="Join the cluster with kubeadm: makes a token, which is in the output."
)
@click.option(
    "--token-ttl",
    type=at_least(60.0, "1m"),
    default="24h",
    show_default=True,
    metavar="DURATION",
    help="How long the token of --join is valid.",
)
@click.option("--program-url", metavar="URL", help="The node downloads apiha.pyz from there.")
@click.option("--program-sha256", metavar="HEX", help="The checksum of what lies there; the node checks it.")
@click.option(
    "--embed",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Put this apiha.pyz into the output: 3 MB, more than most clouds take.",
)
@click.option(
    "--in-image", is_flag=True, help="The image has apiha already, installed without a configuration."
)
@click.option("--kubelet-http2", is_flag=True, help="As for `apiha install`.")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The cluster.  [default: what kubectl takes]",
)
def user_data_command(invocation: Invocation, /, **options: Any) -> None:
    """Print what a new machine needs at its first boot to join as a worker: files and commands, in their order.

    Run it where kubectl works as an administrator. The control planes, the VIP and the CA are those of the cluster;
    settings given as flags (--control-plane, --vip, --host, ...) go before, and all of them go into the node's
    configuration. Configuration files and the environment are those of this machine, and play no part.

    \b
    apiha user-data --join --program-url URL --program-sha256 HEX >user-data
    apiha user-data --join --program-url URL --program-sha256 HEX --format ignition >node.ign
    """
    print_result(_user_data(invocation, **options), newline=False)


def _user_data(
    invocation: Invocation,
    *,
    output_format: str,
    piece: str | None,
    join: bool,
    token_ttl: float,
    kubelet_http2: bool,
    kubeconfig: Path | None,
    **program_options: Any,
) -> str:
    from apiha.kubectl import Kubectl
    from apiha.userdata import formats, pieces

    if piece == "runcmd" and output_format != "cloud-config":
        raise click.UsageError("--print runcmd is for cloud-init; Ignition runs no commands: --print units")
    settings = {key: text for key, text in invocation.flags.items() if text is not None}
    settings.setdefault("ca_file", str(pieces.CA_FILE))
    if load(None, {}, settings).role != "worker":
        raise click.UsageError(
            "for workers only; on a control plane use `apiha install --role control-plane`"
        )
    needs_program = piece in (None, "runcmd")
    program = _program(**program_options) if needs_program else pieces.Program()
    if piece == "units":
        return _units(output_format, kubelet_http2=kubelet_http2)

    kubectl = Kubectl(kubeconfig, purpose="user-data")
    config, ca = _complete(invocation, kubectl, settings)
    plan = pieces.Plan(settings, ca, program, kubelet_http2=kubelet_http2)
    if piece is not None and piece != "runcmd":
        return (pieces.config_file(plan) if piece == "config" else pieces.ca_file(plan)).text or ""
    if join:
        plan = _joining(invocation, kubectl, plan, config, token_ttl)
    if output_format == "cloud-config":
        files, commands = pieces.cloud_init(plan)
        text = formats.cloud_config(files, commands)
        if piece == "runcmd":
            return "\n".join(commands) + "\n"
    else:
        write = formats.ignition if output_format == "ignition" else formats.butane
        text = write(*pieces.ignition(plan))
    _say_size(invocation, len(text))
    return text


def _program(
    *, program_url: str | None, program_sha256: str | None, embed: Path | None, in_image: bool
) -> Program:
    """How the program comes onto the node; raises UsageError unless exactly one way is given."""
    from apiha.userdata.pieces import Program, read_archive

    if sum((program_url is not None, embed is not None, in_image)) != 1:
        raise click.UsageError(
            "how does apiha come onto the node? Give one of --program-url URL --program-sha256 HEX (it downloads "
            "apiha.pyz), --embed FILE (apiha.pyz is part of the output), --in-image (the image has it)"
        )
    if (program_url is None) != (program_sha256 is None):
        raise click.UsageError(
            "--program-url and --program-sha256 go together: `sha256sum apiha.pyz` prints the checksum"
        )
    if program_sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", program_sha256):
        raise click.BadParameter(
            "expected the 64 hexadecimal digits of a SHA-256", param_hint="--program-sha256"
        )
    if program_url is not None and not re.fullmatch(r"https?://[^\s/?#]+(/[\x21-\x7e]*)?", program_url):
        raise click.BadParameter(f"{program_url!r} is not an http or https URL", param_hint="--program-url")
    if embed is not None:
        return Program(archive=read_archive(embed))
    return Program(url=program_url, sha256=program_sha256.lower() if program_sha256 else None)


def _units(output_format: str, *, kubelet_http2: bool) -> str:
    """All units and drop-ins, each below a line with its path."""
    from apiha.paths import PROGRAM, UNIT_DIR
    from apiha.userdata import pieces

    program = PROGRAM if output_format == "cloud-config" else pieces.IGNITION_PROGRAM
    units, drop_ins = pieces.units(program, kubelet_http2=kubelet_http2)
    texts = {UNIT_DIR / unit.name: unit.text for unit in units} | drop_ins
    return "\n".join(f"### {path}\n{text}" for path, text in texts.items())


def _complete(invocation: Invocation, kubectl: Kubectl, settings: dict[str, str]) -> tuple[Config, str]:
    """Fill in what the cluster knows; returns the configuration and the CA (PEM)."""
    from apiha.userdata import cluster

    port = settings.get("port")
    ca, found = cluster.look(kubectl, settings, None if port is None else load(None, {}, settings).port)
    for each in found:
        invocation.report.info(f"found {each.key}: {each.text}: {each.source}", key=each.key, text=each.text)
        if each.key != "ca":
            settings[each.key] = each.text
    config = load(None, {}, settings)
    for line in cluster.doubts(ca, config):
        invocation.report.warning(line)
    return config, ca


def _joining(invocation: Invocation, kubectl: Kubectl, plan: Plan, config: Config, ttl: float) -> Plan:
    """The plan with a `kubeadm join`; makes the token, last of all."""
    import secrets
    from dataclasses import replace

    from apiha.clock import SystemClock
    from apiha.userdata import cluster, pieces
    from apiha.userdata.pins import public_key_pins
    from apiha.userdata.token import NAMESPACE, new_token

    try:
        pins = public_key_pins(plan.ca)
    except ValueError as error:
        raise ConfigError(f"--join: the cluster's CA {error}") from None
    warnings = cluster.check_join(kubectl, config)
    token = new_token(secrets.choice, SystemClock().now(), ttl)
    joining = replace(plan, join=pieces.join_command(config.host, config.port, token.text, pins))
    pieces.ca_file(joining)  # what is wrong with it must not cost a token
    for line in warnings:
        invocation.report.warning(line)
    cluster.create_token(kubectl, token)
    invocation.report.warning(
        f"the output holds a token, valid until {token.expires:%Y-%m-%d %H:%M} UTC: whoever has it can join a node. "
        f"`kubectl -n {NAMESPACE} delete secret {token.secret_name}` makes it invalid"
    )
    return joining


def _say_size(invocation: Invocation, size: int) -> None:
    """Say which clouds do not take so much."""
    if too_small := [f"{name} takes {limit >> 10} KiB" for limit, name in LIMITS if size > limit]:
        invocation.report.warning(
            f"the output has {size >> 10} KiB: {', '.join(too_small)}; with --program-url it is smaller"
        )


COMMANDS = (user_data_command,)
