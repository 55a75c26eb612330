"""The documentation says what the code does: settings, commands, options, exit codes, problems, metrics, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest
import yaml

from apiha import errors
from apiha.cli.main import cli
from apiha.cli.options import OWN_VARIABLES
from apiha.config import Config, load, template
from apiha.durations import parse_duration
from apiha.errors import ConfigError
from apiha.install.checks import ANCHORS as INSTALL_ANCHORS
from apiha.install.checks import CHECKS as INSTALL_CHECKS
from apiha.install.units import UNITS
from apiha.manifests.judge import ANCHORS
from apiha.settings import SETTINGS, Setting
from apiha.status.checks import CHECKS
from apiha.updater.problems import ProblemKey

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))
COMMANDS = sorted(cli.commands)
# Given where a default is nothing that a user would type.
WORDS_FOR_NO_DEFAULT = {"unset"}


def page(name: str) -> str:
    """The text of a page."""
    return (DOCS / name).read_text(encoding="utf-8")


def without_fences(text: str) -> str:
    """The text without its code blocks, line numbers kept."""
    kept, inside = [], False
    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        kept.append("" if inside or fence else line)
        inside ^= fence
    return "\n".join(kept)


def fenced(text: str, language: str) -> list[str]:
    """The contents of the code blocks of this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of its level or above; code blocks hold no headings."""
    level = len(heading) - len(heading.lstrip("#"))
    found: list[str] | None = None
    for line, outside in zip(text.splitlines(), without_fences(text).split("\n"), strict=True):
        if found is not None and re.match(rf"#{{1,{level}}} ", outside):
            break
        if found is not None:
            found.append(line)
        elif outside == heading:
            found = []
    assert found is not None, f"no heading {heading!r}"
    return "\n".join(found) + "\n"


def rows(text: str) -> list[list[str]]:
    """The cells of every table row; `\\|` is no border."""
    lines = [line for line in without_fences(text).splitlines() if line.startswith("| ")]
    cells = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in lines]
    return [[cell.strip() for cell in row] for row in cells if set("".join(row)) - set("- ")]


def words(cell: str) -> str:
    """The text of a cell without code and link markup."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell).replace("`", "").strip()


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#{1,6} +(.*)$", without_fences(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", words(heading).lower()).replace(" ", "-") for heading in headings}


# ------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_every_setting_is_documented_with_its_names_and_default(setting: Setting) -> None:
    """The table of keys has the setting's variable, flag and default, and the page a section for it."""
    text = page("configuration.md")
    table = {words(row[0]): [words(cell) for cell in row] for row in rows(section(text, "## The keys"))}
    _, _, default, variable, flag = table[setting.key]
    assert (variable, flag) == (setting.variable, setting.flag)
    actual = getattr(Config(), setting.key)
    if actual in (None, ()):
        assert default in WORDS_FOR_NO_DEFAULT
    else:
        assert setting.from_text(default) == actual
    assert section(text, f"### {setting.key}").strip()


def test_no_setting_is_documented_that_does_not_exist() -> None:
    """Table and sections name the settings and nothing else, in the order of the code."""
    text = section(page("configuration.md"), "## The keys")
    keys = [setting.key for setting in SETTINGS]
    assert [words(row[0]) for row in rows(text)[1:] if len(row) == 5] == keys
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == keys


def test_the_variables_of_the_command_line_are_documented() -> None:
    """Variables that are no settings have a table of their own."""
    table = rows(section(page("configuration.md"), "## The command line's own variables"))
    assert {words(row[0]) for row in table[1:]} == OWN_VARIABLES


def test_the_example_file_is_the_one_that_install_writes() -> None:
    """The page shows the very file."""
    example = section(page("configuration.md"), "## The file that `apiha install` writes")
    assert fenced(example, "yaml") == [template()]


def test_the_examples_of_configuration_are_valid(tmp_path: Path) -> None:
    """Every YAML example of the page is read without an error."""
    examples = fenced(page("configuration.md"), "yaml")
    assert examples
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example)
        load(path, {}, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(words(row[0]), row[1].strip("`"), id=words(row[0])[:30])
        for row in rows(section(page("configuration.md"), "## Errors"))[1:]
    ],
)
def test_mistakes_in_the_file_say_what_the_page_says(content: str, message: str, tmp_path: Path) -> None:
    """Each line of the table of errors is what apiha says about that file."""
    path = tmp_path / "config.yaml"
    path.write_text(content + "\n")
    with pytest.raises(ConfigError) as raised:
        load(path, {}, {})
    assert str(raised.value) == f"{path}{message}"


# -------------------------------------------------------------------------------------------------- command line


def options_of(command: click.Command) -> Iterator[click.Option]:
    """The options that `--help` shows, without the settings and `--help` itself."""
    # `manifests` and `updater` have options of their own that are called like settings.
    settings = {setting.flag for setting in SETTINGS} if command is cli else set()
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden and parameter.opts[0] not in settings:
            yield parameter


def default_as_documented(option: click.Option) -> object:
    """The option's default as a value to compare; None where there is none worth a word."""
    default = option.default
    if (
        option.is_flag
        or default is None
        or callable(default)
        or option.required
        or "Sentinel" in type(default).__name__
    ):
        return None
    if getattr(option.type, "name", "") == "duration":
        return parse_duration(str(default))
    return str(default)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_section_with_all_its_options(name: str) -> None:
    """A command's table lists its options, each with its default, and no others."""
    text = section(page("cli.md"), f"## apiha {name}")
    listed = {
        flag: words(row[1])
        for row in rows(text)
        for flag in re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", words(row[0]))
    }
    expected = list(options_of(cli.commands[name]))
    assert {flag for flag in listed if flag.startswith("--")} == {
        flag for option in expected for flag in option.opts if flag.startswith("--")
    }
    for option in expected:
        default = default_as_documented(option)
        said = listed[option.opts[0]]
        if isinstance(default, float):
            try:
                assert parse_duration(said) == default, option.opts
            except ValueError:
                assert default == 0, f"{option.opts}: {said!r} stands for {default}"
        elif default is not None and default != "":
            assert said == default, option.opts


def test_every_command_is_in_the_list_of_commands() -> None:
    """The table at the top names the commands, all of them, in some order."""
    listed = [words(row[0]) for row in rows(page("cli.md").partition("## ")[0])[1:]]
    assert sorted(listed) == COMMANDS


def test_every_option_of_the_group_is_documented() -> None:
    """The options before the command, with their defaults."""
    table = {words(row[0]): words(row[1]) for row in rows(section(page("cli.md"), "## Options of the group"))}
    for option in options_of(cli):
        flag = next(flag for flag in option.opts if flag.startswith("--"))
        row = next((key for key in table if flag in re.split(r"[ ,]+", key)), None)
        assert row is not None, flag
        default = default_as_documented(option)
        assert default is None or table[row] == default, flag


def test_every_exit_code_is_documented() -> None:
    """The table has the codes of `ExitCode` with their meanings, in order, and no others, as does `apiha --help`."""
    codes = [(code.value, code.meaning) for code in errors.ExitCode]
    table = rows(section(page("cli.md"), "## Exit codes"))[1:]
    assert [(int(row[0]), row[1]) for row in table] == codes
    assert cli.epilog is not None
    listed = [line.split(maxsplit=1) for line in cli.epilog.splitlines() if line.startswith("  ")]
    assert [(int(code), meaning) for code, meaning in listed] == codes


# ---------------------------------------------------------------------------------------------------- operations


def test_every_finding_of_status_has_a_section() -> None:
    """Operations has a section for each check of the table, its row in the list of codes, and no others."""
    text = section(page("operations.md"), "## What `apiha status` reports")
    assert set(re.findall(r"^### ([a-z0-9-]+)$", text, re.MULTILINE)) == {check.code for check in CHECKS}
    assert [row for row in rows(text) if row[0].startswith("[`")] == [
        [f"[`{check.code}`](#{check.code})", ", ".join(s.value for s in check.severities), check.meaning]
        for check in CHECKS
    ]


def test_every_check_of_the_manifests_links_to_a_heading() -> None:
    """The links that `apiha manifests --dry-run` prints lead to headings that exist."""
    for anchor in ANCHORS.values():
        name, _, heading = anchor.partition("#")
        assert heading in anchors(page(name))


def test_every_check_of_install_is_documented() -> None:
    """Each has its row, and the links that `apiha install` prints lead to headings that exist."""
    for anchor in INSTALL_ANCHORS.values():
        name, _, heading = anchor.partition("#")
        assert heading in anchors(page(name))
    table = rows(section(page("operations.md"), "## What `apiha install` checks"))
    assert len(table) - 1 == len(INSTALL_CHECKS)


def test_the_lines_of_the_journal_are_those_of_the_code() -> None:
    """The fixed words of each line in the table are in the code."""
    sources = sorted((REPOSITORY / "apiha").rglob("*.py"))
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # texts that go on in the next line
    table = rows(section(page("operations.md"), "## What the journal says"))[1:]
    fragments = [part for row in table for part in re.findall(r"`([^`]+)`", row[0])]
    assert len(fragments) > 10
    assert [part for part in fragments if part not in code] == []


def test_every_unit_is_explained() -> None:
    """Operations names each unit."""
    text = page("operations.md")
    assert [unit for unit in UNITS if unit not in text] == []


def test_the_user_data_for_cloud_init_is_valid(tmp_path: Path) -> None:
    """The examples are YAML, and the configuration inside them is one that apiha reads."""
    documents = [
        yaml.safe_load(text)
        for text in fenced(page("operations.md"), "yaml")
        if text.startswith("#cloud-config")
    ]
    assert documents
    for document in documents:
        files = {entry["path"]: entry["content"] for entry in document["write_files"]}
        assert "/etc/kubernetes/pki/ca.crt" not in files  # `kubeadm join` refuses to start where it exists
        path = tmp_path / "config.yaml"
        path.write_text(files["/etc/apiha/config.yaml"])
        config = load(path, {}, {})
        assert config.control_plane
        assert config.vip
        assert str(config.ca_file) in files


# --------------------------------------------------------------------------------------------------------- metrics


def test_every_metric_is_documented() -> None:
    """The page on metrics names each metric that the updater exports, as it is exported, and no others."""
    pytest.importorskip("prometheus_client", reason="needs the extra: pip install 'apiha[updater]'")
    from apiha.updater.metrics import Metrics

    exported = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in Metrics().registry.collect()
    }
    own = {name for name in exported if name.startswith("apiha_")}
    table = rows(section(page("metrics.md"), "## Metrics"))
    listed = {re.split(r"[{ ]", words(row[0]))[0] for row in table[1:] if words(row[0]).startswith("apiha_")}
    assert listed == own


def test_the_page_on_metrics_shows_the_alert_rules() -> None:
    """What stands there is what is in the file, comments and all; its table names every alert."""
    rules = (REPOSITORY / "deploy/prometheus/apiha-rules.yaml").read_text(encoding="utf-8")
    text = section(page("metrics.md"), "## Alerts")
    assert fenced(text, "yaml") == [rules[rules.index("groups:") :]]
    alerts = [rule["alert"] for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    assert [words(row[0]) for row in rows(text)[1:]] == alerts


def test_every_problem_of_the_updater_is_documented() -> None:
    """The table of problems has the keys that the updater knows, and no others."""
    table = rows(section(page("metrics.md"), "## Problems"))[1:]
    listed = {key for row in table for key in re.findall(r"`([^`]+)`", row[0])}
    assert listed == set(get_args(ProblemKey))


# ----------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("path", [*PAGES, *sorted(REPOSITORY.glob("*.md"))], ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    """Files exist, and so do the headings that a link names."""
    text = path.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = path.parent / name if name else path
        if not found.exists() or (anchor and anchor not in anchors(found.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    """Nothing is hidden."""
    index = page("index.md")
    assert [path.name for path in PAGES if path.name != "index.md" and f"({path.name}" not in index] == []
