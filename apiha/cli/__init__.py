"""The command line: parse, call, print. No logic; what a command does is in the module it calls.

Modules are imported inside the commands that need them: a worker's boot waits for `apiha pin-host`, not for what
`apiha install` or `apiha updater` would load.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from apiha import __version__
from apiha.config import DEFAULT_PATH, SETTINGS, Config, load, unknown_variables
from apiha.durations import parse_duration
from apiha.errors import ApihaError, ConfigError, ExitCode
from apiha.log import LogFormat, Reporter
from apiha.paths import HOSTS_FILE, STATE_DIR

if TYPE_CHECKING:
    from apiha.node.phases import Node

_SETTING_PREFIX = "setting_"

F = TypeVar("F", bound=Callable[..., Any])


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.2
    """`500ms`, `15s`, `2m`, or plain seconds; converts to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; a usage error for anything that is no duration."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()


@dataclass
class Invocation:
    """The options of the group, and what follows from them."""

    config_path: Path = DEFAULT_PATH
    config_required: bool = False
    hosts_file: Path = HOSTS_FILE
    state_dir: Path = STATE_DIR
    verbose: bool = False
    log_format: LogFormat = "text"
    flags: dict[str, str | None] = field(default_factory=dict)

    @cached_property
    def report(self) -> Reporter:
        """Where events go; one for the whole run, for it knows whether a status line has to be taken away."""
        return Reporter(log_format=self.log_format, verbose=self.verbose)

    def config(self) -> Config:
        """The checked configuration; raises ConfigError."""
        report = self.report
        for name in unknown_variables(os.environ):
            report.warning(f"{name}: no such setting, ignored; `apiha --help` lists them")
        config = load(self.config_path, os.environ, self.flags, path_required=self.config_required)
        if config.insecure_skip_tls_verify:
            report.warning(
                "insecure_skip_tls_verify is on: certificates are not verified, any machine may answer"
            )
        return config

    def node(self) -> Node:
        """This machine, ready for `apiha.node.phases`."""
        from apiha.hosts import HostsFile
        from apiha.node.phases import Node

        return Node(
            config=self.config(),
            hosts=HostsFile(self.hosts_file, state_dir=self.state_dir),
            name=_node_name(),
            report=self.report,
            state_dir=self.state_dir,
        )


def _node_name() -> str:
    """What this node's order of trial follows from: its host name; the machine id where it has none yet.

    Before DHCP or cloud-init has named them all nodes of an image are `localhost`, and would choose alike.
    """
    name = os.uname().nodename
    if name.split(".")[0] in ("", "localhost", "(none)"):
        try:
            return Path("/etc/machine-id").read_text().strip() or name
        except OSError:
            pass
    return name


def _print(text: str, *, newline: bool = True) -> None:
    """Write a command's result to stdout; raises ApihaError where that takes no more (a full disk)."""
    try:
        click.echo(text, nl=newline)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ApihaError(f"cannot write the result: {error.strerror}") from None


def setting_options(*, hidden: bool) -> Callable[[F], F]:
    """A flag for every setting. The commands take them too, hidden, so that either place works."""

    def decorate(function: F) -> F:
        for setting in reversed(SETTINGS):
            function = click.option(
                setting.flag,
                _SETTING_PREFIX + setting.key,
                metavar=setting.metavar,
                help=setting.help,
                hidden=hidden,
            )(function)
        return function

    return decorate


def _take_settings(arguments: dict[str, Any]) -> dict[str, str | None]:
    """Remove the setting flags from a command's arguments and return those that were given."""
    keys = [key for key in arguments if key.startswith(_SETTING_PREFIX)]
    found = {key.removeprefix(_SETTING_PREFIX): arguments.pop(key) for key in keys}
    return {key: value for key, value in found.items() if value is not None}


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command that takes the settings as flags as well, and gets the `Invocation` as its first argument."""

    @setting_options(hidden=True)
    @click.pass_obj
    def command(invocation: Invocation, /, **arguments: Any) -> Any:
        invocation.flags.update(_take_settings(arguments))
        return function(invocation, **arguments)

    command.__doc__ = function.__doc__
    command.__name__ = function.__name__
    # Options that decorate `function` come with it.
    command.__click_params__ = [  # type: ignore[attr-defined]
        *getattr(command, "__click_params__", []),
        *getattr(function, "__click_params__", []),
    ]
    return command


OUTPUT = click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people or programs.",
)

EPILOG = "\n".join(["\b", "Exit codes:", *(f"  {code.value:>3}  {code.meaning}" for code in ExitCode)])


class _Interrupted(ApihaError):
    """^C, taken out of click's hands: it would write an empty line before anybody else can say a word."""

    exit_code = ExitCode.INTERRUPTED


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted("interrupted") from None


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EPILOG,
    no_args_is_help=True,
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar="APIHA_CONFIG",
    help=f"The configuration.  [default: {DEFAULT_PATH}]",
)
@click.option(
    "--hosts-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar="APIHA_HOSTS_FILE",
    default=HOSTS_FILE,
    show_default=True,
    help="The hosts file to write the block into.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, readable=False),  # root's alone; `status` says what others cannot see
    metavar="DIR",
    envvar="APIHA_STATE_DIR",
    default=STATE_DIR,
    show_default=True,
    help="Where the control planes learned from the cluster are kept.",
)
@click.option("-v", "--verbose", is_flag=True, envvar="APIHA_VERBOSE", help="Say more about what happens.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    envvar="APIHA_LOG_FORMAT",
    default="text",
    show_default=True,
    help="How events are written to stderr.",
)
@setting_options(hidden=False)
@click.version_option(__version__, prog_name="apiha", message="%(prog)s %(version)s")
@click.pass_context
def cli(
    ctx: click.Context,
    /,
    config_path: Path | None,
    hosts_file: Path,
    state_dir: Path,
    verbose: bool,
    log_format: LogFormat,
    **settings: Any,
) -> None:
    """Keep this node in touch with its API server, without a load balancer.

    Kubeconfigs on the node name https://apiserver.cluster.local:6443. apiha points that name, in /etc/hosts, at a
    live control plane before kubelet starts, and at the VIP of the Service `apiserver` once that answers.

    The settings below come from the configuration file; the environment (APIHA_VIP, APIHA_CONTROL_PLANE, ...) beats the
    file, and flags beat both. They may stand before or after the command. Durations are written 500ms, 15s, 2m, or as
    plain seconds.

    \b
    A first look:       apiha --control-plane 10.0.0.11,10.0.0.12 probe
    By hand, as root:   apiha bootstrap
    Something is wrong: apiha status
    """
    invocation = ctx.ensure_object(Invocation)
    invocation.config_path = config_path or DEFAULT_PATH
    invocation.config_required = config_path is not None
    invocation.hosts_file = hosts_file
    invocation.state_dir = state_dir
    invocation.verbose = verbose
    invocation.log_format = log_format
    invocation.flags = dict(_take_settings(settings))


@cli.command("probe")
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
    _print(json.dumps(probe_json(answers), indent=2) if output == "json" else probe_table(answers))
    return (
        0
        if any(a.role == "control-plane" and a.result.health is Health.READY for a in answers)
        else ExitCode.NO_CONTROL_PLANE
    )


@cli.command("pin-host")
@configured
@click.argument("address", required=False)
@click.option(
    "--wait",
    type=DURATION,
    default="0s",
    metavar="DURATION",
    help="Keep trying for this long.  [default: one try]",
)
def pin_host_command(invocation: Invocation, address: str | None, wait: float) -> None:
    """Point the name at a live control plane.

    Tries the control planes in this node's own order, the next one after hedge_delay without an answer, and writes the
    first ready one into the hosts file, the others after it as fallbacks. ADDRESS picks one by hand; it must
    prove itself all the same.
    """
    from apiha.node.phases import pin

    if address is not None:
        from apiha.endpoint import Endpoint

        try:
            Endpoint.parse(address, 1)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="ADDRESS") from None
    pin(invocation.node(), address=address, wait=wait)


@cli.command("wait-vip")
@configured
@click.option(
    "--timeout",
    type=DURATION,
    default="0s",
    metavar="DURATION",
    help="Give up after this long; 0 is never.  [default: 0]",
)
def wait_vip_command(invocation: Invocation, timeout: float) -> None:
    """Wait until the VIP proves itself (3 answers in a row), then point the name at it.

    Meanwhile the pinned control plane is looked at, and another one is pinned when it dies.
    """
    from apiha.node.phases import wait_vip

    wait_vip(invocation.node(), timeout=timeout or None)


@cli.command("bootstrap")
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
def bootstrap_command(invocation: Invocation, pin_only: bool, timeout: float) -> None:
    """Pin, then wait for the VIP and swap: the whole way, by hand or from cloud-init.

    Before kubelet runs on this node the VIP cannot answer (kubelet starts kube-proxy): use --pin-only there.
    """
    from apiha.node.phases import bootstrap

    bootstrap(invocation.node(), pin_only=pin_only, timeout=timeout or None)


@cli.command("reconcile")
@configured
def reconcile_command(invocation: Invocation) -> None:
    """Put the block right if it is not: one short pass.

    The VIP answers: VIP first. It does not: a live control plane first. Nothing answers: the block stays as it is, exit
    code 3. Run by apiha-reconcile.timer and, when the hosts file changes, by apiha-reconcile.path.
    """
    from apiha.node.phases import reconcile

    reconcile(invocation.node())


@cli.command("status")
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
    _print(json.dumps(status_json(status), indent=2) if output == "json" else status_text(status))
    if unusable is not None:
        raise unusable  # its line on stderr, its exit code
    return status.exit_code


@cli.command("unpin")
@configured
def unpin_command(invocation: Invocation) -> None:
    """Remove the block from the hosts file, and restore the lines that `on_conflict: adopt` commented out.

    On an installed node apiha-reconcile.path puts the block back within seconds: stop that unit first, or
    `apiha uninstall`.
    """
    from apiha.hosts import HostsFile
    from apiha.node.phases import report_change

    try:
        host = invocation.config().host
    except ConfigError as error:  # the way out must not depend on it
        invocation.report.warning(f"{error}; the block is removed all the same")
        host = None
    change = HostsFile(invocation.hosts_file, state_dir=invocation.state_dir).unpin(host)
    report_change(invocation.report, invocation.hosts_file, change)
    what = "removed the block from" if change.written else "there was no block in"
    invocation.report.info(f"{what} {invocation.hosts_file}")


@cli.command("install")
@configured
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="An image mounted at DIR; calls no systemctl.",
)
@click.option(
    "--kubelet-http2", is_flag=True, help="Also let kubelet notice a dead connection in 8 s instead of 45 s."
)
@click.option("--now", is_flag=True, help="Start the units as well as enabling them.")
def install_command(invocation: Invocation, root: Path | None, kubelet_http2: bool, now: bool) -> None:
    """Put the systemd units and a commented configuration on this node, and enable them.

    Settings given as flags (--control-plane, --vip, ...) are filled into the new configuration; an existing one is
    never overwritten. From apiha.pyz it also copies itself to /usr/local/bin/apiha.

    \b
    apiha install --control-plane 10.0.0.11,10.0.0.12,10.0.0.13 --vip 10.96.0.100 --kubelet-http2
    """
    from apiha.install import install

    settings = {key: text for key, text in invocation.flags.items() if text is not None}
    load(None, {}, settings)  # nothing that would not be read back is written
    install(invocation.report, root=root, kubelet_http2=kubelet_http2, now=now, settings=settings)


@cli.command("uninstall")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Uninstall from an image mounted at DIR; no systemctl.",
)
@click.option(
    "--keep-block", is_flag=True, help="Leave the block in the hosts file: kubelet still uses the name."
)
@click.pass_obj
def uninstall_command(invocation: Invocation, root: Path | None, keep_block: bool) -> None:
    """Leave the machine as it was: stop and remove the units, what `install` wrote, and the block.

    A configuration that was edited since is kept, and named.
    """
    from apiha.install import uninstall

    uninstall(invocation.report, root=root, hosts_file=invocation.hosts_file, keep_block=keep_block)


@cli.command("manifests")
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
    the API server take it, does each control plane's certificate carry the host? One line for each check; exit code 0,
    5 (does not fit the cluster), 6 (not permitted), 3 (no API server answers), 9 (several of these).
    """
    from apiha.manifests.render import checked_settings, one_stream, render, write_base

    if dry_run and output_dir is not None:
        raise click.UsageError("--dry-run writes nothing; give it without --output-dir")
    if kubeconfig is not None and not dry_run:
        raise click.UsageError("--kubeconfig is for --dry-run; rendering asks no cluster")
    given = {"host": host, "port": port}
    invocation.flags.update({key: text for key, text in given.items() if text is not None})
    config = invocation.config()
    wanted = vips or ((config.vip,) if config.vip else ())
    settings = checked_settings(
        image, wanted, namespace, config.host, config.port, create_namespace=create_namespace
    )
    files = render(settings)
    if dry_run:
        from apiha.manifests.check import Kubectl, check, exit_code

        findings = check(settings, one_stream(files.values()), Kubectl(kubeconfig))
        for finding in findings:
            _print(str(finding))
        return exit_code(findings)
    if output_dir is not None:
        written = write_base(output_dir, files)
        invocation.report.info(
            f"wrote {len(written)} files into {output_dir}: `kubectl apply -k {output_dir}`"
        )
        return 0
    _print(one_stream(files.values()), newline=False)
    return 0


# click 8.1 has no such error: there, help for an empty command line is a success.
_NO_ARGUMENTS: type[click.UsageError] = getattr(click.exceptions, "NoArgsIsHelpError", click.UsageError)


@cli.command("updater")
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


def main() -> NoReturn:
    """Run the command line; every failure is one line on stderr and a documented exit code."""
    invocation = Invocation(log_format=_log_format(sys.argv[1:], os.environ))

    def fail(message: str, code: int) -> int:
        invocation.report.error(message, exit_code=code)
        return code

    try:
        result = cli.main(prog_name="apiha", standalone_mode=False, obj=invocation)
        code = result if isinstance(result, int) else 0
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        if isinstance(error, _NO_ARGUMENTS) and len(sys.argv) == 1:
            error.show()
            code = error.exit_code
        else:
            where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "apiha"
            code = fail(f"{error.format_message().rstrip('.')} (see `{where} --help`)", error.exit_code)
    except ApihaError as error:
        code = fail(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        code = fail("interrupted", ExitCode.INTERRUPTED)
    except Exception as error:
        if (reason := _unwritable_output()) is not None:
            code = fail(f"cannot write the result: {reason}", ExitCode.INTERNAL)
        elif os.environ.get("APIHA_DEBUG"):
            raise
        else:
            code = fail(
                f"internal error: {type(error).__name__}: {error} (please report; APIHA_DEBUG=1 shows where)",
                ExitCode.INTERNAL,
            )
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process at once, without the interpreter's tidying up.

    That takes 35 ms of every pin, and meets the threads of probes that lost their race and still wait for an answer.
    Nothing is pending: files are written and synced where they are written, and streams are flushed here. The updater
    ends in the ordinary way: its libraries may have something to tidy up.
    """
    if "apiha.updater" in sys.modules:
        sys.exit(code)
    _unwritable_output()
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
    os._exit(code)


def _unwritable_output() -> str | None:
    """Why stdout takes no more, if that is so; what is left in its buffer is dropped then."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error.strerror
    return None


def _log_format(arguments: Sequence[str], environ: Mapping[str, str]) -> LogFormat:
    """The log format as far as it can be known before the command line is parsed, or if that fails."""
    given = " ".join(arguments)
    json_wanted = "--log-format json" in given or "--log-format=json" in given
    return "json" if json_wanted or environ.get("APIHA_LOG_FORMAT") == "json" else "text"


__all__ = ["ConfigError", "cli", "main"]
