"""What every command shares: the options of the group, the settings as flags, and how a result is printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from apiha.config import Config, capped, load, unknown_variables
from apiha.durations import parse_duration
from apiha.errors import ApihaError
from apiha.log import LogFormat, Reporter
from apiha.paths import CONFIG_FILE, HOSTS_FILE, STATE_DIR
from apiha.preview import Preview
from apiha.settings import SETTINGS

if TYPE_CHECKING:
    from apiha.node.context import Node

# Variables of the command line itself that are not settings of the file.
OWN_VARIABLES = frozenset(
    {
        "APIHA_CONFIG",
        "APIHA_HOSTS_FILE",
        "APIHA_STATE_DIR",
        "APIHA_LOG_FORMAT",
        "APIHA_VERBOSE",
        "APIHA_DEBUG",
    }
)
_SETTING_PREFIX = "setting_"

F = TypeVar("F", bound=Callable[..., Any])


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.2
    """What a function makes of the text; its ValueError is the usage error."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value; one that is no text any more is left as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Parsed("duration", parse_duration)  # `500ms`, `15s`, `2m`, or plain seconds; converts to seconds


def at_least(shortest: float, shown: str) -> Parsed:
    """A duration of at least `shortest` seconds, which a message writes as `shown`."""

    def parse(text: str) -> float:
        seconds = parse_duration(text)
        if seconds < shortest:
            raise ValueError(f"{text!r} is too short; expected at least {shown}")
        return seconds

    return Parsed("duration", parse)


@dataclass
class Invocation:
    """The options of the group, and what follows from them."""

    config_path: Path = CONFIG_FILE
    config_required: bool = False
    hosts_file: Path = HOSTS_FILE
    state_dir: Path = STATE_DIR
    verbose: bool = False
    log_format: LogFormat = "text"
    dry_run: bool = False
    flags: dict[str, str | None] = field(default_factory=dict)

    @cached_property
    def report(self) -> Reporter:
        """Where events go; one for the whole run, for it knows whether a status line has to be taken away."""
        return Reporter(log_format=self.log_format, verbose=self.verbose, dry_run=self.dry_run)

    @cached_property
    def preview(self) -> Preview | None:
        """Takes the changes of a run that only shows them; None for one that makes them."""
        return Preview(print_result) if self.dry_run else None

    def config(self) -> Config:
        """The checked configuration; raises ConfigError."""
        report = self.report
        for name in unknown_variables(os.environ, OWN_VARIABLES):
            report.warning(f"{name}: no such setting, ignored; `apiha --help` lists them")
        config, warning = capped(
            load(self.config_path, os.environ, self.flags, path_required=self.config_required)
        )
        if warning is not None:
            report.warning(warning)
        if config.insecure_skip_tls_verify:
            report.warning(
                "insecure_skip_tls_verify is on: certificates are not verified, any machine may answer"
            )
        return config

    def node(self) -> Node:
        """This machine, ready for the phases of `apiha.node`."""
        from apiha.hosts import HostsFile
        from apiha.node.context import Node, node_name

        return Node(
            config=self.config(),
            hosts=HostsFile(self.hosts_file, state_dir=self.state_dir, preview=self.preview),
            name=node_name(self.report),
            report=self.report,
            state_dir=self.state_dir,
            preview=self.preview,
        )


def print_result(text: str, *, newline: bool = True) -> None:
    """Write a command's result to stdout; raises ApihaError where that takes no more (a full disk).

    What stdout's encoding does not have is written as an escape. Where stdout is closed nobody wants to know.
    """
    if sys.stdout is None:
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding), nl=newline)
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


def take_settings(arguments: dict[str, Any]) -> dict[str, str | None]:
    """Remove the setting flags from a command's arguments and return those that were given."""
    keys = [key for key in arguments if key.startswith(_SETTING_PREFIX)]
    found = {key.removeprefix(_SETTING_PREFIX): arguments.pop(key) for key in keys}
    return {key: value for key, value in found.items() if value is not None}


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command that takes the settings as flags as well, and gets the `Invocation` as its first argument."""

    @setting_options(hidden=True)
    @click.pass_obj
    def command(invocation: Invocation, /, **arguments: Any) -> Any:
        invocation.flags.update(take_settings(arguments))
        return function(invocation, **arguments)

    command.__doc__ = function.__doc__
    command.__name__ = function.__name__
    # Options that decorate `function` come with it.
    command.__click_params__ = [  # type: ignore[attr-defined]
        *getattr(command, "__click_params__", []),
        *getattr(function, "__click_params__", []),
    ]
    return command


def _take_dry_run(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    invocation = ctx.find_object(Invocation)
    if invocation is not None:
        invocation.dry_run = value


def dry_run(text: str) -> Callable[[F], F]:
    """The option `--dry-run` with this help; the run's `Invocation` knows of it then."""
    return click.option("--dry-run", is_flag=True, expose_value=False, callback=_take_dry_run, help=text)


# For every command that changes something. What was done so far in this run counts as done for what comes after it.
DRY_RUN = dry_run("Print what would change, as diffs and commands; change nothing.")
OUTPUT = click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people or programs.",
)
