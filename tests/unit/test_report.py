"""`apiha report`: what is in the archive, what is not, and what is said before it is written."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from apiha.cli import node as node_commands
from apiha.cli.main import cli
from apiha.cli.options import Invocation
from apiha.config import Config, load
from apiha.errors import ApihaError, ConfigError
from apiha.failfast import kernel
from apiha.hosts import ForeignLine, HostsFile
from apiha.status import report
from apiha.status.checks import judge
from apiha.status.mask import foreign_words, hosts_text, masked
from apiha.status.report import FOLDER, settings_text, write
from tests.unit.test_docs import page, rows, section, words
from tests.unit.test_status import HEALTHY

HOST = "apiserver.cluster.local"
HOSTS = f"""\
127.0.0.1\tlocalhost
127.0.1.1\tworker-7.corp.example worker-7
# the boss's machine
10.9.8.7 payroll.corp.example {HOST} # secret project
fd00::9 vault.corp.example
not a line at all

# apiha adopted: 10.0.0.9 {HOST} old-api
# BEGIN apiha (managed: edits inside are overwritten; `apiha unpin` removes the block)
10.96.0.100\t{HOST}
10.0.0.11\t{HOST}
10.0.0.9\told-api
# END apiha
192.168.5.5 last.corp.example
""".encode()
PRIVATE = (
    *("worker-7", "corp.example", "boss", "secret project", "payroll", "vault", "old-api"),
    *("fd00::9", "192.168.5.5"),
)


def test_of_other_lines_only_their_kind_is_told() -> None:
    """The block is as it is; a line that names the host keeps that name and its address."""
    assert hosts_text(HOSTS, HOST) == (
        "127.0.0.1\tlocalhost\n"
        "127.0.1.1\t(2 names)\n"
        "# (comment)\n"
        f"10.9.8.7\t{HOST} (1 name)\n"
        "(IPv6 address)\t(1 name)\n"
        "(17 bytes that no resolver reads)\n"
        "\n"
        f"# apiha adopted: 10.0.0.9\t{HOST} (1 name)\n"
        "# BEGIN apiha (managed: edits inside are overwritten; `apiha unpin` removes the block)\n"
        f"10.96.0.100 {HOST}\n"
        f"10.0.0.11 {HOST}\n"
        "(IPv4 address)\t(1 name)\n"
        "# END apiha\n"
        "(IPv4 address)\t(1 name)\n"
    )


def test_what_messages_quote_of_such_lines_is_masked_as_well() -> None:
    """The journal and the status name foreign lines; the names alone as well, but not inside of longer words."""
    lines, names = foreign_words(HOSTS, HOST)
    said = (
        f"/etc/hosts:4: '10.9.8.7 payroll.corp.example {HOST} # secret project' names {HOST} too\n"
        "Nov 24 Worker-7 apiha[1]: pinned; worker-70 and myworker-7 are other machines\n"
    )
    assert masked(said, lines, names) == (
        f"/etc/hosts:4: '(a line of the hosts file)' names {HOST} too\n"
        "Nov 24 (name) apiha[1]: pinned; worker-70 and myworker-7 are other machines\n"
    )


def test_a_hosts_file_with_a_hundred_thousand_names_is_masked_in_seconds() -> None:
    """Lists that block advertisements have as many. Names of other letters than a host's are masked as well."""
    names = [f"ads{number}.example" for number in range(100_000)] + ["a/b", "caf\u00e9"]
    text = "ADS99999.example. ads7.example-x a/b caf\u00e9 ads1\n" * 1000
    assert masked(text, [], names) == "(name). ads7.example-x (name) (name) ads1\n" * 1000


@pytest.mark.parametrize(
    "secret",
    [
        "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\ncut off",
        "abcdef.0123456789abcdef",
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl",
        "user:pass",
    ],
)
def test_what_looks_like_a_secret_is_masked(secret: str) -> None:
    """Whoever wrote it there."""
    text = f"proxy http://{secret}@proxy" if secret == "user:pass" else f"a {secret}"
    assert secret not in masked(text, [], [])
    assert "(secret)" in masked(text, [], [])


def test_a_version_and_a_host_are_no_secrets() -> None:
    """What a reader needs stays."""
    text = f"apiha 0.1.0, {HOST}:6443, https://10.0.0.11:6443, apiha-bootstrap.service"
    assert masked(text, [], []) == text


def test_the_settings_are_those_that_were_set() -> None:
    """Files are named, and nothing of the file itself is in it."""
    config = load(None, {}, {"control_plane": "10.0.0.11,10.0.0.12", "client_key": "/k", "client_cert": "/c"})
    assert settings_text(config).splitlines() == [
        "control_plane: 10.0.0.11:6443, 10.0.0.12:6443",
        "client_cert: /c",
        "client_key: /k",
    ]
    assert settings_text(Config()) == "nothing is set"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node with a private hosts file, a journal that quotes it, and no nft; it is run in its folder."""
    (tmp_path / "hosts").write_bytes(HOSTS)
    journal = f"apiha: error: /etc/hosts:4: '10.9.8.7 payroll.corp.example {HOST} # secret project'\n"

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[0] == "journalctl"
        return subprocess.CompletedProcess(command, 0, journal, "")

    def missing() -> str:
        raise kernel.Unsupported("the program `nft` is not installed: install the package nftables")

    monkeypatch.setattr(node_commands, "_status_now", lambda _: (judge(HEALTHY), None))
    monkeypatch.setattr("apiha.status.report.subprocess.run", run)
    monkeypatch.setattr(kernel, "text", missing)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(machine: Path, *arguments: str) -> None:
    """`apiha report`, with standard input that is no terminal."""
    options = ["--hosts-file", str(machine / "hosts"), "--state-dir", str(machine / "state")]
    cli.main([*options, "report", *arguments], standalone_mode=False, obj=Invocation())


def test_the_archive_holds_what_was_listed_and_nothing_private(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For its owner alone. What cannot be had says why."""
    run(machine, "r.tar.gz")
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == "In r.tar.gz:"
    assert stat.S_IMODE((machine / "r.tar.gz").stat().st_mode) == 0o600
    with tarfile.open(machine / "r.tar.gz") as tar:
        files = {member.name: tar.extractfile(member) for member in tar}
        texts = {name: file.read().decode() for name, file in files.items() if file is not None}
    assert [f"{FOLDER}/{line.split()[0]}" for line in listed[1:]] == list(texts)
    whole = "".join(texts.values())
    assert [word for word in PRIVATE if word in whole] == []
    assert "10.96.0.100" in texts[f"{FOLDER}/hosts.txt"]
    assert json.loads(texts[f"{FOLDER}/status.json"])["exit_code"] == 0
    assert texts[f"{FOLDER}/nftables.txt"].startswith("missing: the program `nft` is not installed")
    assert "'(a line of the hosts file)'" in texts[f"{FOLDER}/journal.txt"]


def test_nothing_is_overwritten(machine: Path) -> None:
    """Least of all something that the user named by mistake."""
    with pytest.raises(ApihaError, match="hosts is there already"):
        run(machine, str(machine / "hosts"))
    assert (machine / "hosts").read_bytes() == HOSTS
    with pytest.raises(ApihaError, match="hosts is there already"):
        write(machine / "hosts", b"")
    with pytest.raises(
        ApihaError, match="cannot write the report: No such file or directory; give another FILE"
    ):
        write(machine / "no/such/folder", b"")


def test_a_report_is_a_file(machine: Path) -> None:
    """`-` is stdout for many programs; a file of that name is hard to remove."""
    with pytest.raises(click.UsageError, match="FILE is the name of a file"):
        run(machine, "-")
    assert not (machine / "-").exists()


def test_a_disk_that_is_full_leaves_no_half_of_an_archive(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody would attach it."""

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:  # pytest itself opens files too
        patched.setattr("builtins.open", lambda *_: Full())
        with pytest.raises(
            ApihaError, match=r"r\.tar\.gz: cannot write the report: No space left on device; give"
        ):
            write(machine / "r.tar.gz", b"x")
    assert not (machine / "r.tar.gz").exists()


def test_a_dry_run_lists_and_writes_nothing(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same list."""
    run(machine, "--dry-run")
    assert "  hosts.txt " in capsys.readouterr().out
    assert [path.name for path in machine.iterdir()] == ["hosts"]


@pytest.mark.parametrize("answer", [True, False])
def test_on_a_terminal_it_asks_after_the_list(
    answer: bool, machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a no is a no."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def confirm(*_: object, **__: object) -> bool:
        assert "  hosts.txt " in capsys.readouterr().out
        return answer

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("click.confirm", confirm)
    run(machine, "r.tar.gz")
    assert (machine / "r.tar.gz").exists() is answer


def test_a_configuration_that_cannot_be_used_and_a_hosts_file_that_cannot_be_read(tmp_path: Path) -> None:
    """The report is for nodes on which something is wrong."""
    hosts = HostsFile(tmp_path, state_dir=tmp_path / "state")  # a folder
    error = ConfigError("/etc/apiha/config.yaml:1: 'vips': unknown key; did you mean vip?")
    pieces = {piece.name: piece.text for piece in report.collect(judge(HEALTHY), error, hosts)}
    assert pieces["config.txt"] == str(error)
    assert pieces["hosts.txt"].startswith("missing: ")


def test_the_tables_are_shown_as_nft_prints_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with apiha's names; nothing where none is loaded."""
    loaded = ["inet apiha", "ip apiha"]

    def nft(*arguments: str, script: str | None = None) -> kernel._Answer:
        assert script is None
        return kernel._Answer(True, f"table {' '.join(arguments[2:])} {{\n}}\n", "")

    monkeypatch.setattr(kernel, "_present", lambda: loaded)
    monkeypatch.setattr(kernel, "_nft", nft)
    assert kernel.text() == "table inet apiha {\n}\ntable ip apiha {\n}\n"
    loaded.clear()
    assert kernel.text() == ""


def test_a_line_is_masked_however_json_writes_it(machine: Path) -> None:
    """Quotes and letters that are not ASCII look different there."""
    line = f'10.9.8.7 {HOST} # caf\u00e9 "x"'
    (machine / "hosts").write_text(line + "\n", encoding="utf-8")
    foreign = ForeignLine(1, line, "10.9.8.7")
    status = judge(replace(HEALTHY, hosts=replace(HEALTHY.hosts, foreign=(foreign,))))
    hosts = HostsFile(machine / "hosts", state_dir=machine / "state")
    pieces = {piece.name: piece.text for piece in report.collect(status, None, hosts)}
    for name in ("status.txt", "status.json"):
        assert "names apiserver.cluster.local too: (a line of the hosts file)" in pieces[name]
        assert "caf" not in pieces[name]


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "piece"),
    [
        (0, "-- No entries --\n", "", "the units have said nothing since the boot"),
        (0, "", "Hint: see\nothers.", "the units have said nothing since the boot (Hint: see others.)"),
        (1, "", "No journal files were found.", "missing: No journal files were found."),
        (2, "", "", "missing: journalctl ended with exit code 2"),
    ],
)
def test_a_journal_that_says_nothing(
    machine: Path, monkeypatch: pytest.MonkeyPatch, code: int, stdout: str, stderr: str, piece: str
) -> None:
    """To a user who may not read it, say."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, code, stdout, stderr)

    monkeypatch.setattr("apiha.status.report.subprocess.run", run)
    hosts = HostsFile(machine / "hosts", state_dir=machine / "state")
    pieces = {piece.name: piece.text for piece in report.collect(judge(HEALTHY), None, hosts)}
    assert pieces["journal.txt"] == piece


def test_a_machine_without_journalctl(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The piece says so."""

    def run(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "journalctl")

    monkeypatch.setattr("apiha.status.report.subprocess.run", run)
    hosts = HostsFile(machine / "hosts", state_dir=machine / "state")
    pieces = {piece.name: piece.text for piece in report.collect(judge(HEALTHY), None, hosts)}
    assert pieces["journal.txt"] == "missing: journalctl is not there"


def test_every_piece_is_documented(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page names each, in the order of the list."""
    run(machine, "--dry-run")
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    table = [words(row[0]) for row in rows(section(page("cli.md"), "## apiha report")) if ".txt" in row[0]]
    assert [name for cell in table for name in cell.split(", ")] == listed
