"""The man pages say what `--help`, the settings and the configuration reference say."""

from __future__ import annotations

import re

import click
import pytest

from apiha.cli.main import cli
from apiha.errors import ExitCode
from apiha.settings import SETTINGS, Setting
from tools import man

COMMANDS = sorted(cli.commands)


def plain(roff: str) -> str:
    """The words of a page, without requests, fonts and escapes."""
    text = re.sub(r"^\.(RS \d|IP \S+ \d|[A-Za-z]+) ?", "", roff, flags=re.MULTILINE)
    text = re.sub(r"\\f[BIR]|\\&", "", text)
    for written, character in {
        "\\-": "-",
        "\\(aq": "'",
        "\\(dq": '"',
        "\\(ga": "`",
        "\\(ti": "~",
        "\\(ha": "^",
        "\\e": "\\",
    }.items():
        text = text.replace(written, character)
    text = re.sub(r"\\\[u([0-9A-F]{4})\]", lambda found: chr(int(found[1], 16)), text)
    return " ".join(text.replace("`", "").split())


def flat(text: str) -> str:
    """A help text as `plain` leaves it."""
    return " ".join(text.replace("`", "").replace("\b", " ").split())


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Both pages."""
    return man.pages()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_apiha_1_with_its_help_and_options(name: str, pages: dict[str, str]) -> None:
    """What `apiha COMMAND --help` prints: the text, each option, what it does and its default."""
    command = cli.commands[name]
    context = click.Context(command, info_name=name, parent=click.Context(cli, info_name="apiha"))
    start = pages["apiha.1"].index(f'.SS "apiha {name.replace("-", chr(92) + "-")}')
    section = plain(re.split(r"\n\.S[SH] ", pages["apiha.1"][start:])[0])
    assert flat(command.help or "") in section
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            assert flat(" ".join(record)) in section


def test_apiha_1_has_the_options_of_the_group_exit_codes_and_variables(pages: dict[str, str]) -> None:
    """What `apiha --help` prints."""
    text = plain(pages["apiha.1"])
    context = click.Context(cli, info_name="apiha")
    assert flat(cli.help or "") in text
    for parameter in cli.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            assert flat(" ".join(record)) in text
    for code in ExitCode:
        assert f" {code.value} {flat(code.meaning)}" in text
    assert [setting.variable for setting in SETTINGS if setting.variable not in text] == []


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_every_setting_is_in_apiha_yaml_5(setting: Setting, pages: dict[str, str]) -> None:
    """Its help, variable, flag and example, and what the reference says about it."""
    text = plain(pages["apiha.yaml.5"])
    for words in (setting.help, setting.variable, setting.flag, setting.example):
        assert flat(words) in text
    reference = (man.REPOSITORY / "docs/configuration.md").read_text(encoding="utf-8")
    section = man._section(reference, f"### {setting.key}")
    first = re.split(r"(?<=[.:]) ", " ".join(section.split()))[0]
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", first).replace("`", "").replace("*", "")
    assert shown in text


def test_the_help_option_is_that_of_a_run_whoever_asked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-h, --help` stands with the group and every command, though click remembers names that others gave it."""
    for command in (cli, *cli.commands.values()):
        monkeypatch.setattr(command, "_help_option", None)
        command.get_params(click.Context(command, help_option_names=["--stale"]))
    text = plain(man.pages()["apiha.1"])
    assert text.count("-h, --help Show this message and exit.") == 1 + len(COMMANDS)


def test_what_begins_like_a_request_is_text(pages: dict[str, str]) -> None:
    """Every line that begins with a dot or a quote is one of the requests that the tool writes."""
    requests = {"TH", "SH", "SS", "PP", "TP", "IP", "B", "I", "nf", "fi", "RS", "RE", "br", "nh", "ad", '\\"'}
    for text in pages.values():
        found = {line[1:].split(" ")[0] for line in text.splitlines() if line.startswith((".", "'"))}
        assert found <= requests
