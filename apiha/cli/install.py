"""The commands that put apiha on a machine and take it off again. What they do is in `apiha.install`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from apiha.cli.options import DRY_RUN, Invocation, configured, print_result
from apiha.config import load
from apiha.errors import ApihaError, ExitCode

if TYPE_CHECKING:
    from apiha.config import Config
    from apiha.install.kubelet import Switch


class CheckFailed(ApihaError):
    """A check of the machine failed; nothing was written."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@click.command("install", short_help="Put units and a configuration on this node.")
@configured
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="An image mounted at DIR; asks no cluster, checks no machine, calls no systemctl.",
)
@click.option(
    "--kubelet-http2", is_flag=True, help="Also let kubelet notice a dead connection in 8 s instead of 45 s."
)
@click.option("--now", is_flag=True, help="Start the units as well as enabling them.")
@click.option(
    "--kubelet",
    is_flag=True,
    help="Also point kubelet.conf at the name and restart kubelet; put back if it does not renew its Lease.",
)
@DRY_RUN
def install_command(
    invocation: Invocation, root: Path | None, kubelet_http2: bool, now: bool, kubelet: bool
) -> None:
    """Put the systemd units and a configuration on this node, and enable them.

    On a node that is in a cluster, settings that are not given are asked of the cluster with kubelet's certificate: the
    control planes, and the VIP. Settings given as flags (--control-plane, --vip, ...) win. They are filled into a new
    configuration; an existing one is never overwritten. Before anything is written the machine is checked, a line for
    each check; one that fails stops it. From apiha.pyz it also copies itself to /usr/local/bin/apiha.

    \b
    apiha install --now --kubelet
    apiha install --control-plane 10.0.0.11,10.0.0.12,10.0.0.13 --vip 10.96.0.100 --kubelet-http2
    """
    from apiha.install.install import install

    given = {key: text for key, text in invocation.flags.items() if text is not None}
    load(None, {}, given)  # nothing that would not be read back is written
    if root is not None:
        if kubelet:
            raise click.UsageError("--kubelet is for the running machine; give it without --root")
        install(
            invocation.report,
            root=root,
            kubelet_http2=kubelet_http2,
            now=now,
            settings=given,
            preview=invocation.preview,
        )
        return
    install_here(invocation, given, kubelet_http2=kubelet_http2, now=now, kubelet=kubelet)


def install_here(
    invocation: Invocation, given: Mapping[str, str], *, kubelet_http2: bool, now: bool, kubelet: bool
) -> None:
    """`apiha install` on the running machine, with the settings that were `given` (key to text, already checked)."""
    from apiha.install.install import install

    settings, config = _prepare(invocation, given, now=now, kubelet=kubelet)
    install(
        invocation.report,
        kubelet_http2=kubelet_http2,
        now=now,
        settings=settings,
        preview=invocation.preview,
    )
    point_kubelet(invocation, config, wanted=kubelet, now=now)


def _prepare(
    invocation: Invocation, given: Mapping[str, str], *, now: bool, kubelet: bool
) -> tuple[dict[str, str], Config]:
    """The settings to write, and the configuration that the machine will have; raises CheckFailed, ApihaError."""
    from apiha.findings import Severity, exit_code
    from apiha.install.checks import judge, report_text
    from apiha.install.machine import look
    from apiha.install.prepare import require_root, settle

    if invocation.preview is None:
        require_root()
    settings, config = settle(invocation.report, given, now=now)
    if kubelet:
        _switch(invocation, config).check()
    findings = judge(look(config, invocation.hosts_file))
    print_result(report_text(findings, getattr(sys.stdout, "encoding", None) or "utf-8"))
    failed = sum(finding.severity is Severity.ERROR for finding in findings)
    if failed:
        words = "1 check failed" if failed == 1 else f"{failed} checks failed"
        raise CheckFailed(f"nothing was written: {words}", exit_code(findings))
    return settings, config


def point_kubelet(invocation: Invocation, config: Config, *, wanted: bool, now: bool) -> None:
    """Point kubelet at the name if that is wanted; ask, where somebody is there to answer."""
    from apiha.install.kubelet import SWAP_PATIENCE, other_server, wanted_server

    server = other_server(config)
    if not wanted:
        if server is None or config.vip is None:
            return
        name = wanted_server(config)
        asked = now and invocation.preview is None and sys.stdin is not None and sys.stdin.isatty()
        if not asked or not click.confirm(
            f"kubelet uses {server}. Point it at {name} and restart it?", default=False, err=True
        ):
            invocation.report.info(
                f"kubelet still uses {server}: `apiha install --now --kubelet` points it at {name}"
            )
            return
    _switch(invocation, config).point(patience=SWAP_PATIENCE if now else 0.0)


def _switch(invocation: Invocation, config: Config) -> Switch:
    from apiha.clock import SystemClock
    from apiha.install.kubelet import Switch

    return Switch(config, invocation.report, SystemClock(), preview=invocation.preview)


@click.command("uninstall", short_help="Leave the machine as it was.")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Uninstall from an image mounted at DIR; no systemctl.",
)
@click.option(
    "--keep-block",
    is_flag=True,
    help="Leave the block in the hosts file, and kubelet.conf as it is: kubelet still uses the name.",
)
@DRY_RUN
@click.pass_obj
def uninstall_command(invocation: Invocation, root: Path | None, keep_block: bool) -> None:
    """Leave the machine as it was: stop and remove the units, what `install` wrote, and the block.

    kubelet.conf gets its old server back if `install --kubelet` changed it. A configuration that was edited since is
    kept, and named.
    """
    from apiha.install.install import uninstall

    uninstall(
        invocation.report,
        root=root,
        hosts_file=invocation.hosts_file,
        keep_block=keep_block,
        preview=invocation.preview,
    )


COMMANDS = (install_command, uninstall_command)
