"""What the command line says, checked."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import click
import pytest

from apiha.cli.main import cli
from apiha.errors import ConfigError
from apiha.updater.settings import Listen, Settings, default_identity, parse_listen


@pytest.mark.parametrize(
    ("lease", "renew", "retry", "word"),
    [
        (15, 15, 2, "more than --renew"),
        (15.5, 10, 2, "whole seconds"),
        (15, 2, 2, "1.2 times"),
        (15, 10, 0.5, "a second"),
    ],
)
def test_times_that_cannot_work_together_are_refused(
    lease: float, renew: float, retry: float, word: str
) -> None:
    """With the flag's name and the reason."""
    with pytest.raises(ConfigError, match=word):
        Settings(lease_duration=lease, renew_deadline=renew, retry_period=retry)
    Settings(lease_duration=15, renew_deadline=10, retry_period=2)


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        (":8080", ("", 8080), ":8080"),
        ("127.0.0.1:0", ("127.0.0.1", 0), "127.0.0.1:0"),
        ("[::1]:9", ("::1", 9), "[::1]:9"),
        ("0.0.0.0:1", ("", 1), ":1"),
        ("[::]:1", ("", 1), ":1"),
    ],
)
def test_listen_addresses(text: str, expected: tuple[str, int], shown: str) -> None:
    """An address and a port, or a port alone for every address."""
    assert parse_listen(text) == expected
    assert str(Listen(*expected)) == shown


@pytest.mark.parametrize("text", ["8080", "", "host:80", ":70000", "::1:x"])
def test_listen_addresses_that_are_none(text: str) -> None:
    """The text, and what was expected."""
    with pytest.raises(ValueError, match="expected for example :8080"):
        parse_listen(text)


def test_a_process_that_starts_anew_is_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name in the Lease is the Pod's and a number."""
    monkeypatch.setenv("POD_NAME", "apiserver-updater-abc")
    first, second = default_identity(), default_identity()
    assert first.startswith("apiserver-updater-abc_")
    assert first != second


def parsed(*arguments: str, group: tuple[str, ...] = ()) -> dict[str, Any]:
    """The parameters that click hands to the command."""
    from apiha.cli.options import Invocation

    command = cli.commands["updater"]
    invocation = Invocation()
    with cli.make_context("apiha", [*group, "updater"], obj=invocation) as outer:
        outer.invoke(cli.callback, **outer.params)  # type: ignore[arg-type]
        with command.make_context("updater", list(arguments), parent=outer) as context:
            return dict(context.params)


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["--namespace", "A_b"], "--namespace"),
        (["--service", "a.b"], "--service"),
        (["--host", "-"], "--host"),
        (["--vip", "a.name"], "--vip"),
        (["--listen", "nonsense"], "--listen"),
        (["--resync", "10ms"], "--resync"),
        (["--health-interval", "99ms"], "--health-interval"),
        (["--health-failures", "0"], "--health-failures"),
    ],
)
def test_values_that_are_none_are_usage_errors(arguments: list[str], flag: str) -> None:
    """Each names the flag that it came from."""
    with pytest.raises(click.BadParameter) as raised:
        parsed(*arguments)
    assert flag in raised.value.format_message()


def test_values_arrive_typed() -> None:
    """Nothing is left to parse for who gets them."""
    found = parsed(
        "--vip", "10.96.0.100", "--vip", "FD00::64, 10.96.0.101", "--listen", ":0", "--host", "A.B"
    )
    assert found["vips"] == ("10.96.0.100", "fd00::64", "10.96.0.101")
    assert found["listen"] == Listen("", 0)
    assert found["host"] == "a.b"
    assert found["lease_duration"] == 8.0


def test_vip_and_host_are_the_settings_of_that_name_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's flag before the group's, that before the environment."""
    assert parsed()["vips"] == ()
    assert parsed()["host"] == Settings().host
    monkeypatch.setenv("APIHA_VIP", "10.0.0.1,10.0.0.2")
    monkeypatch.setenv("APIHA_HOST", "env.example")
    assert parsed()["vips"] == ("10.0.0.1", "10.0.0.2")
    assert parsed()["host"] == "env.example"
    assert parsed(group=("--vip", "10.0.0.3"))["vips"] == ("10.0.0.3",)
    assert parsed("--vip", "10.0.0.4", group=("--vip", "10.0.0.3"))["vips"] == ("10.0.0.4",)
    assert parsed(group=("--host", "group.example"))["host"] == "group.example"


def test_the_settings_are_what_the_flags_are() -> None:
    """Every field has a flag, and the defaults are the same."""
    found = parsed()
    found["health_check"] = not found.pop("no_health_check")
    found["identity"] = "me"
    assert Settings(**found) == Settings(identity="me")


@pytest.mark.parametrize(
    ("module", "code", "words"),
    [
        ("prometheus_client", 5, "needs `pip install apiha[updater]`"),
        ("apiha.updater.mirror", 1, "apiha.updater.mirror"),
    ],
)
def test_a_missing_extra_is_named_and_a_broken_installation_is_not_taken_for_one(
    module: str, code: int, words: str
) -> None:
    """What is missing of the extra is pip's to know; a module of our own is another matter."""
    script = f"import sys; sys.modules[{module!r}] = None; from apiha.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "updater"], capture_output=True, text=True, check=False, timeout=60
    )
    assert words in done.stderr
    assert done.returncode == code
    assert ("pip install" in done.stderr) == (code == 5)
