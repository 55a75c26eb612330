"""Writes the man pages: `apiha.1` from the commands as `--help` shows them, `apiha.yaml.5` from the settings and the
configuration reference (docs/configuration.md).

    python -m tools.man FOLDER      # FOLDER/apiha.1, FOLDER/apiha.yaml.5

The roff is that of man(7), which man-db and mandoc both read.
"""

from __future__ import annotations

import inspect
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from apiha import HOMEPAGE, __version__
from apiha.cli.main import cli
from apiha.config import Config
from apiha.errors import ExitCode
from apiha.paths import CONFIG_FILE, HOSTS_FILE, STATE_DIR
from apiha.settings import SETTINGS
from tools.epoch import source_date_epoch

REPOSITORY = Path(__file__).resolve().parents[1]
TAGLINE = "keep a Kubernetes node in touch with its API server"
FILES = {
    CONFIG_FILE: "The configuration, \\fBapiha.yaml\\fR(5).",
    HOSTS_FILE: "The hosts file. Only the block between \\fB# BEGIN apiha\\fR and \\fB# END apiha\\fR is written.",
    STATE_DIR: "The control planes learned from the cluster, the lock, the record of \\fBapiha install\\fR.",
}


def pages() -> dict[str, str]:
    """File name to roff text of each page."""
    return {"apiha.1": _page(_apiha_1()), "apiha.yaml.5": _page(_apiha_yaml_5())}


def _page(lines: Iterator[str]) -> str:
    """The lines without the requests for a new paragraph where a heading has begun one."""
    kept: list[str] = []
    for line in lines:
        if line != ".PP" or not kept[-1].startswith((".SH", ".SS")):
            kept.append(line)
    return "\n".join(kept) + "\n"


# ------------------------------------------------------------------------------------------------- apiha(1)


def _apiha_1() -> Iterator[str]:
    root = click.Context(cli, info_name="apiha", **cli.context_settings)  # as a run has it: with `-h`
    yield from _title("APIHA", 1, "User Commands")
    yield from (".SH NAME", f"apiha \\- {TAGLINE}", ".SH SYNOPSIS")
    yield from (".B apiha", _escaped(" ".join(cli.collect_usage_pieces(root))))
    yield ".SH DESCRIPTION"
    yield from _help_text(cli.help)
    yield ".SH OPTIONS"
    yield from _options(cli, root)
    yield ".SH COMMANDS"
    for name in cli.list_commands(root):
        command = cli.commands[name]
        context = click.Context(command, info_name=name, parent=root)
        yield f'.SS "{_escaped(" ".join(["apiha", name, *command.collect_usage_pieces(context)]))}"'
        yield from _help_text(command.help)
        yield from _options(command, context)
    yield ".SH EXIT STATUS"
    for code in ExitCode:
        yield from (".TP", f".B {code.value}", _text(code.meaning))
    yield ".SH ENVIRONMENT"
    for parameter in cli.params:
        if isinstance(parameter, click.Option) and isinstance(parameter.envvar, str):
            option = max(parameter.opts, key=len)
            yield from (".TP", f".B {parameter.envvar}", _text(f"As `{option}`."))
    for setting in SETTINGS:
        yield from (".TP", f".B {setting.variable}", _text(f"As `{setting.flag}`."))
    yield from (".TP", ".B APIHA_DEBUG", "With any value, an internal error shows where it happened.")
    yield ".SH FILES"
    for path, meaning in FILES.items():
        yield from (".TP", f".I {_escaped(str(path))}", meaning)
    yield from _see_also("\\fBapiha.yaml\\fR(5), \\fBhosts\\fR(5), \\fBsystemd\\fR(1), \\fBnft\\fR(8)")


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    """The options with their texts and defaults, as `--help` has them."""
    # A command keeps the help option of whoever asked it first, by its names. A new command has those of this context.
    for parameter in click.Command(command.name, params=command.params).get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            names, text = record
            yield from (".TP", f".B {_escaped(names)}", _text(text) if text.strip() else "\\&")


def _help_text(text: str | None) -> Iterator[str]:
    """A command's help: paragraphs; those that begin with a backspace keep their lines (click's own mark)."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text or "")):
        if paragraph.startswith("\b\n"):
            yield from _verbatim(paragraph.partition("\n")[2].splitlines())
        else:
            yield from (".PP", _text(paragraph))


# -------------------------------------------------------------------------------------------- apiha.yaml(5)


def _apiha_yaml_5() -> Iterator[str]:
    reference = next(REPOSITORY.joinpath("docs").rglob("configuration.md")).read_text(encoding="utf-8")
    yield from _title("APIHA.YAML", 5, "File Formats")
    yield from (".SH NAME", f"apiha.yaml \\- the configuration of apiha(1), {_escaped(str(CONFIG_FILE))}")
    yield from (".SH SYNOPSIS", f".I {_escaped(str(CONFIG_FILE))}", ".SH DESCRIPTION")
    yield from _markdown(reference.partition("\n## ")[0].partition("\n")[2])
    yield ".SH WHERE A VALUE COMES FROM"
    yield from _markdown(_section(reference, "## Where a value comes from"))
    yield ".SH KEYS"
    yield from _markdown(_section(reference, "## The keys").partition("\n### ")[0])
    for setting in SETTINGS:
        default = getattr(Config(), setting.key)
        yield from (f".SS {setting.key}", _text(setting.help))
        facts = {
            "Value": setting.metavar,
            "Default": "unset" if default in (None, ()) else _shown(setting.key, default),
            "Example": setting.example,
            "Environment": setting.variable,
            "Flag": setting.flag,
        }
        for fact, value in facts.items():
            yield from (".br", f"{fact}: \\fB{_escaped(value)}\\fR")
        yield from _markdown(_section(reference, f"### {setting.key}"))
    yield ".SH FILES"
    yield from (".TP", f".I {_escaped(str(CONFIG_FILE))}", FILES[CONFIG_FILE])
    yield from _see_also("\\fBapiha\\fR(1)")


def _shown(key: str, default: object) -> str:
    """A default as one would write it."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):  # seconds
        return f"{default:g}s" if default >= 1 else f"{default * 1000:g}ms"
    return str(default)


def _section(text: str, heading: str) -> str:
    """What stands below a heading of the page, up to the next one of its level or above. Raises ValueError."""
    level = len(heading) - len(heading.lstrip("#"))
    found: list[str] | None = None
    fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        if found is not None and not fenced and re.match(rf"#{{1,{level}}} ", line):
            break
        if found is not None:
            found.append(line)
        elif line == heading:
            found = []
    if found is None:
        raise ValueError(f"docs/configuration.md has no heading {heading!r}")
    return "\n".join(found)


def _markdown(text: str) -> Iterator[str]:
    """Paragraphs, lists and blocks of code; a table is left out: what it says stands with each key."""
    for index, part in enumerate(re.split(r"^( *)```.*\n", text, flags=re.MULTILINE)):
        # Text, the indentation of a fence, code, the indentation of its end, text, and so on.
        if index % 4 == 2:
            yield from _verbatim(inspect.cleandoc(f"\n{part}").splitlines())
        elif index % 4 == 0:
            for block in re.split(r"\n\s*\n", part):
                yield from _block("\n".join(line for line in block.splitlines() if not line.startswith("|")))


def _block(text: str) -> Iterator[str]:
    """A paragraph, or a list."""
    for item in re.split(r"\n(?=- |\d+\. )", text):
        mark = re.match(r"\s*(- |\d+\. )", item)
        if mark:
            label = "\\(bu" if mark[1] == "- " else mark[1].strip()
            yield from (f".IP {label} 3", _text(item[mark.end() :]))
        elif item.strip():
            yield from (".PP", _text(item))


# ----------------------------------------------------------------------------------------------------- roff


def _title(name: str, section: int, manual: str) -> Iterator[str]:
    day = time.strftime("%Y-%m-%d", time.gmtime(source_date_epoch()))
    yield '.\\" Written by tools/man.py.'
    yield f'.TH {name} {section} {day} "apiha {__version__}" "{manual}"'
    yield from (".nh", ".ad l")


def _see_also(pages: str) -> Iterator[str]:
    yield from (".SH SEE ALSO", pages, ".PP", _escaped(HOMEPAGE))


def _verbatim(lines: list[str]) -> Iterator[str]:
    yield from (".PP", ".RS 4", ".nf", *(_line(_escaped(line)) or "\\&" for line in lines), ".fi", ".RE")


def _text(text: str) -> str:
    """A paragraph of a help text or of Markdown, as one line of roff."""
    text = re.sub(r"\[([^\]]*)\]\([^)\s]*\)", r"\1", " ".join(text.split()))
    parts = re.split(r"`([^`]*)`", text)
    done = [
        f"\\fB{_escaped(part)}\\fR"
        if index % 2
        else re.sub(r"\*\*?([^*]+)\*?\*", r"\\fI\1\\fR", _escaped(part))
        for index, part in enumerate(parts)
    ]
    return _line("".join(done))


def _line(text: str) -> str:
    """A line that begins like a request is none."""
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _escaped(text: str) -> str:
    """The characters that mean something to roff, and those that troff would print as typographic ones."""
    for character, written in {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti",
                               '"': "\\(dq"}.items():  # fmt: skip
        text = text.replace(character, written)
    return "".join(c if ord(c) < 128 else f"\\[u{ord(c):04X}]" for c in text)


def main(arguments: list[str]) -> int:
    """Write both pages into a folder."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
