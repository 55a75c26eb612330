"""Every `apiha` command that a page shows is one that the program takes: commands and options that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from apiha.cli.main import cli
from apiha.hosts.text import remove, splice
from tests.unit.test_docs import DOCS, PAGES, REPOSITORY

SHOWN = [REPOSITORY / "README.md", REPOSITORY / "README.zh-CN.md", *PAGES]
# A prompt, variables, and the program by one of its names; what follows ends at the shell's next word of its own.
COMMAND = re.compile(
    r"(?:^|[;&|(]\s*|\bdo\s+)(?:[A-Z_]+=\S+\s+)*(?:apiha|\S*/apiha|python3? \S*apiha\.pyz)"
    r"((?:\s+(?:\"[^\"]*\"|[^\s;&|>#()<]+))+)"
)


def commands(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each command in the page's code blocks, with its line: the arguments behind the program's name."""
    language = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"\s*```(\w*)", line)
        if fence:
            language = None if language is not None else fence[1]
            continue
        text = line.strip()
        if language == "console":
            if not text.startswith(("$ ", "# ")):
                continue
            text = text[2:]
        elif language == "yaml" and text.startswith("- "):
            text = text[2:]
        elif language != "sh":
            continue
        for match in COMMAND.finditer(text):
            arguments = shlex.split(match[1])
            if not arguments[0].endswith(":"):  # "# apiha adopted: ..." in a hosts file
                yield number, arguments


def parse(arguments: list[str]) -> None:
    """Have click read a command line without running it; raises click.UsageError."""
    with cli.make_context("apiha", list(arguments)) as context:
        rest = [*context._protected_args, *context.args]  # what a group leaves for its command
        name, command, rest = cli.resolve_command(context, rest)
        assert command is not None
        command.make_context(name, rest, parent=context).close()


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_the_commands_of_a_page_exist(path: Path) -> None:
    """A renamed option or command fails here, not at a reader's."""
    wrong = []
    for number, arguments in commands(path):
        try:
            parse(arguments)
        except click.UsageError as error:
            wrong.append(f"{path.name}:{number}: apiha {shlex.join(arguments)}: {error.format_message()}")
        except click.exceptions.Exit:
            pass  # --help, --version
    assert wrong == []


def test_commands_are_found_where_they_stand(tmp_path: Path) -> None:
    """After a prompt, a variable, a pipe; by path; not in what a command printed."""
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n# A=1 apiha --vip 10.0.0.1 probe | grep vip\napiha: pinned\n$ true && /usr/bin/apiha status\n```\n"
        "```sh\npython3 /opt/apiha.pyz install --now   # a comment\n```\n```text\napiha no\n```\n"
    )
    assert list(commands(page)) == [
        (2, ["--vip", "10.0.0.1", "probe"]),
        (4, ["status"]),
        (7, ["install", "--now"]),
    ]


def test_the_hosts_file_of_a_worker_from_sealos_is_what_apiha_makes_of_it() -> None:
    """The block with the adopted line that the page on lvscare shows; removing it gives sealos' line back."""
    text = (DOCS / "migrate-lvscare.md").read_text(encoding="utf-8")
    shown = re.search(r"^# cat /etc/hosts\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert shown is not None
    sealos = b"127.0.0.1\tlocalhost\n192.168.0.5 lvscare.node.ip\n10.103.97.2 apiserver.cluster.local\n"
    addresses = ["10.96.0.100", "192.168.0.3", "192.168.0.4", "192.168.0.2"]
    after = splice(sealos, "apiserver.cluster.local", addresses, "adopt")
    assert after.data.decode() == shown[1]
    assert remove(after.data).data == sealos
