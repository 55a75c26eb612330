"""The command `apiha fail-fast`. Its modules are imported when it runs."""

from __future__ import annotations

import json
import os

import click

from apiha.cli.options import DRY_RUN, OUTPUT, Invocation, configured, print_result
from apiha.config import load, require_control_plane
from apiha.errors import ApihaError, ConfigError, ExitCode


@click.command("fail-fast", short_help="Have the kernel refuse silent control planes at once.")
@configured
@click.argument("action", type=click.Choice(["on", "off", "status"]))
@click.option(
    "--refresh", is_flag=True, help="With `on`: say nothing where nothing is changed or can be changed."
)
@DRY_RUN
@OUTPUT
def fail_fast_command(invocation: Invocation, action: str, refresh: bool, output: str) -> int:
    """Have the kernel refuse a silent control plane at once, instead of letting clients wait for it.

    \b
    on      load the nftables table `inet apiha` or bring it up to date, as fail_fast says (`off` removes it)
    off     remove it; apiha-failfast.service loads it again, unless fail_fast is off or that unit is disabled
    status  say which control planes are silent, and what was cut and refused; exit code 9 if it should be
            loaded and is not

    Exit code 10 where this machine cannot do it (nft is missing, say): all else works as without.
    """
    if action == "status":
        return _status(invocation, output)
    try:
        return _off(invocation) if action == "off" else _on(invocation, refresh=refresh)
    finally:
        _write_metrics(invocation)


def _on(invocation: Invocation, *, refresh: bool) -> int:
    from apiha.failfast import kernel
    from apiha.node.choice import addresses_to_watch

    report, config = invocation.report, invocation.config()
    try:
        if config.fail_fast == "off":
            if kernel.remove(invocation.preview):
                report.info("removed the nftables table `inet apiha`: fail_fast is off")
            elif not refresh:
                report.info("fail_fast is off: nothing to load")
            return ExitCode.OK
        known = (*config.control_plane, *invocation.node().remembered().endpoints)
        endpoints = addresses_to_watch(known, config.vip)
        if not endpoints:
            require_control_plane(config)
        done = kernel.load(endpoints, config.fail_fast, invocation.preview)
    except kernel.Unsupported as error:
        if not refresh:
            report.warning(
                f"no fail fast: {error}; clients wait for a silent control plane as long as they do without"
            )
        return ExitCode.UNSUPPORTED
    if done != "unchanged" or not refresh:
        whose = (
            "the node's connections" if config.fail_fast == "node" else "the node's and its Pods' connections"
        )
        report.info(
            f"fail fast {done}: watching {whose} to {', '.join(map(str, endpoints))}",
            done=done,
            control_planes=[str(endpoint) for endpoint in endpoints],
        )
    return ExitCode.OK


def _off(invocation: Invocation) -> int:
    from apiha.failfast import kernel

    try:
        removed = kernel.remove(invocation.preview)
    except kernel.Unsupported as error:
        invocation.report.warning(f"nothing removed: {error}")
        return ExitCode.UNSUPPORTED
    invocation.report.info(
        "removed the nftables table `inet apiha`" if removed else "there was no nftables table `inet apiha`"
    )
    return ExitCode.OK


def _write_metrics(invocation: Invocation) -> None:
    """Write what the kernel says now for node_exporter, if that is wanted. What goes wrong is only logged."""
    try:  # without the warnings: whoever needs the configuration has said them
        path, required = invocation.config_path, invocation.config_required
        folder = load(path, os.environ, invocation.flags, path_required=required).textfile_dir
    except ConfigError:  # `off` works without a configuration; `on` has said so
        return
    if folder is None or invocation.preview is not None:
        return
    from apiha import textfile
    from apiha.failfast import kernel
    from apiha.failfast.metrics import families

    try:
        table = kernel.read()
    except ApihaError:  # this machine cannot do it, or the name is taken: it is not loaded
        table = None
    text = textfile.render(families(table))
    textfile.put(folder, textfile.FAIL_FAST_FILE, lambda _: text, invocation.report.warning)


def _status(invocation: Invocation, output: str) -> int:
    from apiha.failfast import kernel
    from apiha.failfast.show import table_json, table_text

    config, table = invocation.config(), kernel.read()
    if output == "json":
        print_result(json.dumps({"setting": config.fail_fast, **table_json(table)}, indent=2))
    elif table is None:
        print_result(f"not loaded (fail_fast: {config.fail_fast})")
    else:
        print_result(table_text(table))
    return ExitCode.PROBLEMS if table is None and config.fail_fast != "off" else ExitCode.OK


COMMANDS = (fail_fast_command,)
