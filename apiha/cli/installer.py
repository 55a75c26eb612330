"""`apiha node-installer`: what the Pods of `apiha manifests --installer` run, and what they have their node run."""

from __future__ import annotations

import signal
import sys

import click

from apiha.cli.options import Invocation, configured
from apiha.config import load
from apiha.errors import ApihaError, ConfigError
from apiha.findings import Severity
from apiha.settings import BY_KEY


@click.command("node-installer", short_help="Keep apiha installed on its node (in a Pod).")
@configured
@click.option(
    "--kubelet", is_flag=True, help="Also point kubelet.conf at the name, as `apiha install --kubelet` does."
)
@click.option("--remove", is_flag=True, help="Uninstall instead; ready once nothing is left.")
@click.option("--on-node", is_flag=True, hidden=True)  # what the Pod has the node's systemd run
def node_installer_command(invocation: Invocation, kubelet: bool, remove: bool, on_node: bool) -> None:
    """Keep apiha installed on the node that this Pod runs on: what the DaemonSet of `apiha manifests --installer` runs.

    Has the node's systemd run the image's apiha.pyz as root: `install --now`, unless this very file is installed
    already, then `status`. Looks again every five minutes. The Pod is ready while `status` finds no error. Settings
    given as flags are filled into a new configuration.
    """
    settings = {key: text for key, text in invocation.flags.items() if text is not None}
    load(None, {}, settings)  # nothing that the node would refuse is sent there
    if on_node:
        if remove:
            _remove(invocation, settings)
        else:
            try:
                _keep_current(invocation, settings, kubelet=kubelet)
            finally:
                _say_what_is_known(invocation)
        return
    from apiha.install.pod import NodeInstaller

    arguments = ["--log-format=json", "node-installer", "--on-node", *(["--remove"] if remove else [])]
    arguments += ["--kubelet"] if kubelet else []
    arguments += [f"{BY_KEY[key].flag}={text}" for key, text in settings.items()]
    done = (
        "nothing of apiha is left on this node"
        if remove
        else "this node is up to date, and `apiha status` finds no error"
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # for pid 1 the kernel has no default
    NodeInstaller(invocation.report, arguments).run(done)


def _keep_current(invocation: Invocation, settings: dict[str, str], *, kubelet: bool) -> None:
    """As root on the node; raises ApihaError with the reason why the Pod is not ready."""
    from apiha.cli.install import install_here, point_kubelet
    from apiha.install import on_node
    from apiha.install.kubelet import other_server
    from apiha.status.checks import judge
    from apiha.status.machine import look

    on_node.keep_current(
        lambda: install_here(invocation, settings, kubelet_http2=False, now=True, kubelet=kubelet)
    )
    invocation.flags.clear()  # from here on the node's own configuration counts
    config = invocation.config()
    if kubelet and other_server(config) is not None:
        point_kubelet(invocation, config, wanted=True, now=True)
    status = judge(look(config, invocation.hosts_file, invocation.state_dir))
    errors = [finding.message for finding in status.findings if finding.severity is Severity.ERROR]
    if errors:
        raise ApihaError("; ".join(errors))


def _say_what_is_known(invocation: Invocation) -> None:
    """The line of the log from which `apiha control-plane list` counts the nodes that have learned."""
    from apiha.known import Known
    from apiha.node import memory

    remembered = memory.load(invocation.state_dir)
    known = Known.of(remembered.endpoints, sorted(remembered.drained))
    invocation.report.info(known.message, **known.fields())


def _remove(invocation: Invocation, settings: dict[str, str]) -> None:
    """As root on the node; raises ApihaError with the reason why the Pod is not ready."""
    from apiha.install import on_node

    invocation.flags.clear()
    try:
        host = invocation.config().host
    except ConfigError as error:  # the way out must not depend on it
        invocation.report.warning(str(error))
        host = load(None, {}, settings).host
    on_node.remove(invocation.report, host, invocation.hosts_file)


COMMANDS = (node_installer_command,)
