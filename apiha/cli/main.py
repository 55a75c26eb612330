"""The group `apiha` with its options, and `main`, which turns every failure into one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from apiha import __version__
from apiha.cli import admin, cluster, failfast, install, installer, manifests, node, userdata
from apiha.cli.options import Invocation, setting_options, take_settings
from apiha.errors import ApihaError, ExitCode
from apiha.log import LogFormat
from apiha.paths import CONFIG_FILE, HOSTS_FILE, STATE_DIR

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
    help=f"The configuration.  [default: {CONFIG_FILE}]",
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
    invocation.config_path = config_path or CONFIG_FILE
    invocation.config_required = config_path is not None
    invocation.hosts_file = hosts_file
    invocation.state_dir = state_dir
    invocation.verbose = verbose
    invocation.log_format = log_format
    invocation.flags = dict(take_settings(settings))


for command in (
    *node.COMMANDS,
    *install.COMMANDS,
    *failfast.COMMANDS,
    *manifests.COMMANDS,
    *cluster.COMMANDS,
    *userdata.COMMANDS,
    *installer.COMMANDS,
    *admin.COMMANDS,
):
    cli.add_command(command)

# click 8.1 has no such error: there, help for an empty command line is a success.
_NO_ARGUMENTS: type[click.UsageError] = getattr(click.exceptions, "NoArgsIsHelpError", click.UsageError)


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
        # What a failed write held is dropped already, so one more character asks again.
        if (reason := _unwritable_output("\n" if isinstance(error, OSError) else "")) is not None:
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


def _unwritable_output(more: str = "") -> str | None:
    """Why stdout takes no more, if that is so; what is left in its buffer is dropped then."""
    try:
        if sys.stdout is not None:
            sys.stdout.write(more)
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
