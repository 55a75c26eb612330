"""The command line as a whole: help, options, where settings come from, how it fails, how it talks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from apiha import __version__
from apiha.cli.main import cli
from apiha.settings import SETTINGS
from tests.support.cli import VIP, Cluster, Worker, on_a_terminal, without_rights, world_readable
from tests.support.control_plane import DEFAULT_HOST
from tests.support.probing import eventually

COMMANDS = (
    "probe",
    "pin-host",
    "wait-vip",
    "bootstrap",
    "reconcile",
    "status",
    "unpin",
    "install",
    "uninstall",
)
NEED_CONFIG = ("probe", "pin-host", "wait-vip", "bootstrap", "reconcile", "status")


# ------------------------------------------------------------------------------------------------- help


def test_version(worker: Worker) -> None:
    """`--version` says what it is and nothing else."""
    assert worker.run("--version").ok().stdout == f"apiha {__version__}\n"


def test_help_teaches(worker: Worker) -> None:
    """The help of the group explains the idea, lists every command, every setting and every exit code."""
    text = worker.run("--help").ok().stdout
    words = " ".join(text.split())
    for command in COMMANDS:
        assert f"\n  {command} " in text
    for setting in SETTINGS:
        assert setting.flag in text
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130):
        assert re.search(rf"(?m)^ .*\b{code}  ", text), code
    assert "/etc/apiha/config.yaml" in words
    assert "/etc/hosts" in words
    assert "environment" in words
    assert "500ms, 15s, 2m" in words


@pytest.mark.parametrize(
    ("command", "taught"),
    [
        ("probe", ["Exit code 0 if a control plane is ready, 3 if none", "untrusted", "--output"]),
        ("pin-host", ["ADDRESS", "--wait DURATION", "fallbacks", "must prove itself"]),
        ("wait-vip", ["3 answers in a row", "--timeout DURATION", "0 is never", "another one is pinned"]),
        ("bootstrap", ["--pin-only", "--timeout DURATION", "kubelet", "cloud-init"]),
        ("reconcile", ["VIP first", "stays as it is", "exit code 3", "timer"]),
        ("status", ["what is wrong", "Exit code 0 if there is no error", "--output"]),
        ("unpin", ["Remove the block", "adopt"]),
        ("install", ["--root DIR", "--kubelet-http2", "never overwritten", "/usr/local/bin/apiha"]),
        ("uninstall", ["--root DIR", "as it was", "edited since is kept"]),
    ],
)
def test_help_of_a_command_teaches(worker: Worker, command: str, taught: list[str]) -> None:
    """Each command's help says what it does, with its options and what its exit code means."""
    # Lines may break after a hyphen.
    text = re.sub(r"\s+", " ", re.sub(r"-\n\s+", "-", worker.run(command, "--help").ok().stdout))
    for words in taught:
        assert words in text, words


def test_each_command_is_told_in_a_whole_line(worker: Worker) -> None:
    """In a terminal of 80 columns no line of the list is cut off."""
    commands = worker.run("--help").ok().stdout.partition("Commands:\n")[2].partition("Exit codes:")[0]
    listed = dict(line.split(maxsplit=1) for line in commands.strip().splitlines())
    assert set(listed) == set(cli.commands)
    assert [told for told in listed.values() if not told.endswith(".") or told.endswith("...")] == []


def test_no_command_prints_the_help(worker: Worker) -> None:
    """`apiha` alone prints the help and is a usage error."""
    done = subprocess.run(worker.program, capture_output=True, text=True, env=worker.environ(), check=False)
    assert done.returncode == 2
    assert "Usage: apiha" in done.stderr + done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_source(worker: Worker, shell: str) -> None:
    """`_APIHA_COMPLETE=<shell>_source apiha` prints what the shell has to evaluate."""
    done = worker.run(env={"_APIHA_COMPLETE": f"{shell}_source"}).ok()
    assert "_APIHA_COMPLETE" in done.stdout
    assert done.stderr == ""


def test_shell_completion_in_a_real_bash(worker: Worker, tmp_path: Path) -> None:
    """In bash, `apiha rec<Tab>` completes to `reconcile`, and `apiha --log-format <Tab>` to its values."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash: install it")
    program = tmp_path / "bin" / "apiha"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m apiha "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(_APIHA_COMPLETE=bash_source apiha)"
        try() {
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            _apiha_completion apiha
            echo "${COMPREPLY[@]}"
        }
        try apiha rec; try apiha --log-format ''; try apiha pin-host --wa
    """
    environ = worker.environ()
    environ["PATH"] = f"{program.parent}:{environ['PATH']}"
    done = subprocess.run(
        [bash, "--norc", "-c", script], capture_output=True, text=True, env=environ, check=False
    )
    assert done.stdout.split("\n") == ["reconcile", "text json", "--wait", ""], done


# ------------------------------------------------------------------------------------------------- settings


def test_flag_beats_environment_beats_file(worker: Worker, cluster: Cluster) -> None:
    """Of three different lists of control planes the flag's is used, else the environment's, else the file's."""
    first, second, third = (plane.address for plane in cluster.planes)
    worker.configure({k: v for k, v in cluster.settings.items() if k != "vip"}, control_plane=[first])

    def probed(*arguments: str, **env: str) -> list[str]:
        return [answer["address"] for answer in worker.run(*arguments, "-o", "json", env=env).ok().json()]

    assert probed("probe") == [first]
    assert probed("probe", APIHA_CONTROL_PLANE=f"{second}, {third}") == [second, third]
    assert probed("--control-plane", third, "probe", APIHA_CONTROL_PLANE=second) == [third]
    assert probed("probe", "--control-plane", third, APIHA_CONTROL_PLANE=second) == [third]
    assert probed("--control-plane", second, "probe", "--control-plane", third) == [third]


def test_everything_without_a_file(worker: Worker, cluster: Cluster) -> None:
    """A node can be configured by its environment alone, the options of the group included."""
    worker.config.unlink()
    hosts = worker.directory / "other-hosts"
    done = subprocess.run(
        [*worker.program, "pin-host"],
        capture_output=True,
        text=True,
        check=False,
        env=worker.environ(
            {
                "APIHA_HOSTS_FILE": str(hosts),
                "APIHA_STATE_DIR": str(worker.state),
                "APIHA_LOG_FORMAT": "json",
                "APIHA_VERBOSE": "1",
                "APIHA_HOST": "api.test",
                "APIHA_PORT": str(cluster.port),
                "APIHA_CONTROL_PLANE": "127.0.0.11,127.0.0.12",
                "APIHA_CA_FILE": str(cluster.authority.ca_file),
                "APIHA_FALLBACKS": "no",
                "APIHA_PROBE_TIMEOUT": "500ms",
                "APIHA_HEDGE_DELAY": "0.1",
                "APIHA_ON_CONFLICT": "adopt",
                "APIHA_ROLE": "worker",
                "APIHA_INSECURE_SKIP_TLS_VERIFY": "true",
            }
        ),
    )
    assert done.returncode == 0, done
    assert hosts.read_text().count("\tapi.test\n") == 1
    assert worker.untouched
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert not [event for event in events if "no such setting" in event["message"]]


def test_every_setting_is_a_flag_of_every_command(worker: Worker, cluster: Cluster) -> None:
    """All settings can be given as flags, before and after the command."""
    values = {
        "host": DEFAULT_HOST,
        "port": str(cluster.port),
        "control_plane": "127.0.0.11,127.0.0.12",
        "vip": VIP,
        "role": "worker",
        "ca_file": str(cluster.authority.ca_file),
        "client_cert": str(cluster.authority.issue_client().cert),
        "client_key": "",
        "fallbacks": "false",
        "probe_timeout": "900ms",
        "hedge_delay": "100ms",
        "on_conflict": "refuse",
        "fail_fast": "off",
        "textfile_dir": "/var/lib/metrics",
        "insecure_skip_tls_verify": "false",
    }
    client = cluster.authority.issue_client()
    values |= {"client_cert": str(client.cert), "client_key": str(client.key)}
    assert list(values) == [setting.key for setting in SETTINGS]
    flags = [word for setting in SETTINGS for word in (setting.flag, values[setting.key])]
    worker.run(*flags, "pin-host").ok()
    assert len(worker.addresses) == 1
    cluster.vip.start()
    for command in NEED_CONFIG:
        assert worker.run(command, *flags).code in (0, 9), command


def test_a_misspelt_variable_is_named(joined: Worker) -> None:
    """A variable that looks like a setting and is none is a warning, not silence."""
    done = joined.run("pin-host", env={"APIHA_CONTROLPLANE": "10.0.0.1"}).ok()
    assert "apiha: warning: APIHA_CONTROLPLANE: no such setting" in done.stderr


def test_insecure_is_warned_about_each_time(joined: Worker) -> None:
    """`insecure_skip_tls_verify` never goes unmentioned."""
    for command in ("probe", "pin-host", "reconcile"):
        done = joined.run("--insecure-skip-tls-verify", "true", command).ok()
        assert "insecure_skip_tls_verify" in done.stderr


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vpi: 10.96.0.100\n", ["config.yaml:1", "vpi", "did you mean vip?"]),
        ("control_plane: 10.0.0.11\n", ["config.yaml:1", "control_plane", "a list"]),
        ("control_plane: [cp1.example.com]\n", ["control_plane", "'cp1.example.com'", "IPv4 or IPv6"]),
        ("control_plane: []\n", ["control_plane", "empty"]),
        ("control_plane: [10.0.0.11, '10.0.0.11:6443']\n", ["control_plane", "10.0.0.11:6443", "twice"]),
        ("control_plane: [10.0.0.11]\nvip: 10.0.0.11\n", ["config.yaml:2", "vip", "10.0.0.11"]),
        ("vip: apiserver\n", ["config.yaml:1", "vip", "'apiserver'"]),
        ("port: '6443'\n", ["port", "number from 1 to 65535"]),
        ("host: 10.0.0.1\n", ["host", "host name"]),
        ("probe_timeout: fast\n", ["probe_timeout", "500ms"]),
        ("ca_file: ca.crt\n", ["ca_file", "absolute path"]),
        ("client_key: /k\n", ["client_key", "client_cert"]),
        ("vip: 10.96.0.100\nvip: 10.96.0.101\n", ["config.yaml:2", "vip", "twice"]),
        ("- vip\n", ["config.yaml", "mapping"]),
        ("vip: [\n", ["config.yaml", "YAML"]),
        ("vip: \x00\n", ["config.yaml"]),
        ("vip: !!python/object/apply:os.system [id]\n", ["config.yaml", "YAML"]),
    ],
)
def test_bad_configuration(worker: Worker, cluster: Cluster, text: str, words: list[str]) -> None:
    """One line names file, key and what was expected; exit code 5; nothing is written."""
    worker.config.write_text(text)
    worker.run("pin-host").failed(5, *words)
    assert worker.untouched
    assert not worker.state.exists()


@pytest.mark.parametrize("command", NEED_CONFIG)
def test_bad_configuration_stops_every_command(worker: Worker, command: str) -> None:
    """Every command that reads the configuration fails alike."""
    worker.config.write_text("vpi: 1\n")
    worker.run(command).failed(5, "vpi")
    assert worker.untouched


def test_unreadable_configuration(worker: Worker) -> None:
    """A file that is missing, a folder, or not text: one line, exit code 5. Without --config it may be missing."""
    worker.run("--config", "/nonexistent/a.yaml", "probe").failed(5, "/nonexistent/a.yaml", "No such file")
    worker.run("--config", "/", "probe").failed(5, "/: cannot read", "directory")
    worker.config.write_bytes(b"vip: \xff\n")
    worker.run("probe").failed(5, "config.yaml", "UTF-8")
    worker.config.write_bytes(b"# " + b"x" * (1 << 20))
    worker.run("probe").failed(5, "config.yaml", "larger than")


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (["--vip", "apiserver"], {}, ["--vip", "'apiserver'"]),
        (["--port", "http"], {}, ["--port", "'http'"]),
        (["--control-plane", "10.0.0.1,,10.0.0.1"], {}, ["--control-plane", "twice"]),
        ([], {"APIHA_VIP": ""}, ["APIHA_VIP", "empty"]),
        ([], {"APIHA_FALLBACKS": "maybe"}, ["APIHA_FALLBACKS", "true or false"]),
        ([], {"APIHA_HEDGE_DELAY": "1 fortnight"}, ["APIHA_HEDGE_DELAY", "duration"]),
    ],
)
def test_bad_flags_and_variables(
    joined: Worker, arguments: list[str], env: dict[str, str], words: list[str]
) -> None:
    """A bad setting is named by the flag or variable it came from; exit code 5; nothing is written."""
    joined.run(*arguments, "pin-host", env=env).failed(5, *words)
    assert joined.untouched


def test_nothing_configured(worker: Worker) -> None:
    """Without any configuration each command says what is missing and the three ways to give it."""
    for command in ("probe", "pin-host", "bootstrap", "reconcile"):
        key = "vip" if command == "bootstrap" else "control_plane"
        flag = key.replace("_", "-")
        worker.run(command).failed(5, f"{key}: not set", f"APIHA_{key.upper()}", f"--{flag}", "config.yaml")
    worker.run("wait-vip").failed(5, "vip: not set", "APIHA_VIP")
    assert worker.untouched


def test_trust_that_cannot_be_had(joined: Worker, cluster: Cluster, tmp_path: Path) -> None:
    """A CA that is missing or no certificate: one line, exit code 5. So is a client certificate that does not load for
    `probe`, which is asked to show what it shows; what a boot runs warns and goes on without it.
    """
    junk = tmp_path / "junk.pem"
    junk.write_text("no PEM here\n")
    client = cluster.authority.issue_client()
    for arguments, words in (
        (["--ca-file", "/nonexistent/ca.crt"], ["/nonexistent/ca.crt", "No such file"]),
        (["--ca-file", str(junk)], [str(junk), "CA"]),
    ):
        for command in ("pin-host", "reconcile", "probe"):
            joined.run(*arguments, command).failed(5, *words)
            # A client certificate that is no good as well does not hide what is wrong with the CA.
            done = joined.run(*arguments, "--client-cert", str(junk), command)
            assert done.code == 5, done
            done.tells(*words)
    assert joined.untouched
    for path, words in (
        (junk, [str(junk)]),
        (client.cert, [str(client.cert)]),  # without its key
        (Path("/nonexistent/c.pem"), ["/nonexistent/c.pem", "no such file"]),
    ):
        joined.run("--client-cert", str(path), "probe").failed(5, *words)
        for command in ("pin-host", "reconcile"):
            done = joined.run("--client-cert", str(path), command).ok().tells(*words)
            warnings = [line for line in done.stderr.splitlines() if line.startswith("apiha: warning: ")]
            assert len(warnings) == 1, done
            assert joined.addresses[0] == cluster.in_order()[0].address


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], ["frobnicate"]),
        (["probe", "--frobnicate"], ["--frobnicate", "apiha probe --help"]),
        (["probe", "--output", "xml"], ["--output", "'xml'", "json"]),
        (["--log-format", "yaml", "probe"], ["--log-format", "yaml"]),
        (["pin-host", "--wait", "soon"], ["--wait", "'soon'", "500ms, 15s, 2m"]),
        (["pin-host", "--wait"], ["--wait"]),
        (["pin-host", "cp1.example.com"], ["ADDRESS", "cp1.example.com"]),
        (["pin-host", "127.0.0.11", "127.0.0.12"], ["127.0.0.12"]),
        (["bootstrap", "--timeout", "999999999999h"], ["--timeout", "too long"]),
        (["--vip", "10.0.0.1"], ["ommand"]),
    ],
)
def test_wrong_command_line(joined: Worker, arguments: list[str], words: list[str]) -> None:
    """A wrong command line: one line that points to the help, exit code 2, nothing written."""
    joined.run(*arguments).failed(2, *words, "--help")
    assert joined.untouched


# ------------------------------------------------------------------------------------------------- exit codes


def test_foreign_line_is_exit_7(joined: Worker) -> None:
    """A line of somebody else for the same name stops a pin: file and line number, exit code 7."""
    joined.hosts.write_text(f"127.0.0.1 localhost\n10.9.9.9 {DEFAULT_HOST} other\n")
    before = joined.fingerprint()
    for command in ("pin-host", "bootstrap", "reconcile"):
        done = joined.run(command)
        assert done.code == 7, done
        done.tells(f"{joined.hosts}:2", "10.9.9.9", "on_conflict")
    assert joined.fingerprint() == before


@pytest.mark.parametrize("kind", ["a folder", "a folder is missing", "a FIFO", "not text"])
def test_hosts_file_that_cannot_be_written_is_exit_8(joined: Worker, kind: str) -> None:
    """What is no hosts file is named in one line, exit code 8."""
    joined.hosts.unlink()
    if kind == "a folder":
        joined.hosts.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(joined.hosts)
    elif kind == "a folder is missing":
        joined.hosts = joined.directory / "missing" / "hosts"
    else:
        joined.hosts = Path("/dev/null")
    done = joined.run("pin-host")
    assert done.code == 8, done
    done.tells(str(joined.hosts))
    assert len([line for line in done.stderr.splitlines() if line.startswith("apiha: error: ")]) == 1


def test_without_the_rights_is_exit_6(cluster: Cluster) -> None:
    """A user who may not write the hosts file is told so in one line, exit code 6; reading commands work."""
    with world_readable() as folder:
        worker = Worker(folder)
        ca = folder / "ca.crt"
        ca.write_text(cluster.authority.ca_pem)
        worker.configure(cluster.settings, ca_file=str(ca))
        with without_rights(folder) as before:
            for command in (["pin-host"], ["reconcile"], ["bootstrap", "--timeout", "20s"]):
                done = worker.run(*command, before=before)
                assert done.code == 6, done
                done.tells(str(worker.hosts), "root")
                assert len(done.stderr.splitlines()) <= 2, done
            assert worker.untouched
            assert worker.run("probe", before=before).ok()
            assert worker.run("status", before=before).tells().code == 9


def test_interrupted_is_exit_130(joined: Worker, cluster: Cluster) -> None:
    """SIGINT ends each kind of wait at once with one more line and exit code 130."""
    for plane in cluster.planes[:2]:
        plane.stop()
    waiting = joined.start("bootstrap", "--timeout", "1m")
    waiting.wait_for("does not answer yet")
    waiting.process.send_signal(signal.SIGINT)
    done = waiting.finish()
    assert done.code == 130, done
    assert done.tells().stderr.splitlines()[-1] == "apiha: error: interrupted"
    assert joined.addresses  # the pin that was made stays

    cluster.planes[2].stop()
    waiting = joined.start("pin-host", "--wait", "1m")
    waiting.wait_for("no live control plane yet")
    waiting.process.send_signal(signal.SIGINT)
    done = waiting.finish()
    assert done.code == 130, done
    assert done.tells().stderr.splitlines()[-1] == "apiha: error: interrupted"


def test_interrupted_while_nothing_answers(joined: Worker, cluster: Cluster) -> None:
    """SIGINT is heeded in the middle of a probe that hangs, too."""
    for plane in cluster.planes:
        plane.behaviour = "silent"
    waiting = joined.start("--probe-timeout", "10s", "probe")
    assert eventually(lambda: all(plane.counters.connections for plane in cluster.planes))
    waiting.process.send_signal(signal.SIGINT)
    done = waiting.finish(10)
    assert done.code == 130, done
    assert done.stderr == "apiha: error: interrupted\n"


def test_a_reader_that_leaves_is_no_crash(joined: Worker) -> None:
    """`apiha probe | head -0`, and closed standard streams, end without a traceback or an internal error."""
    for redirect in ("| true", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"):
        command = " ".join(joined.argv("probe")) + f" {redirect}"
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, env=joined.environ(), check=False
        )
        assert "Traceback" not in done.stderr, (redirect, done)
        assert "Exception" not in done.stderr, (redirect, done)
        assert "internal error" not in done.stderr, (redirect, done)
        if "&-" in redirect:  # nobody wants to know; that is no failure
            assert done.returncode == 0, (redirect, done)


@pytest.mark.parametrize("arguments", [["probe"], ["--help"], ["status", "--help"], ["--version"]])
def test_a_full_disk_is_named(joined: Worker, arguments: list[str]) -> None:
    """A result that cannot be written is one line on stderr, however long the result is."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            joined.argv(*arguments),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=joined.environ(),
            check=False,
        )
    assert done.stderr.endswith("apiha: error: cannot write the result: No space left on device\n"), done
    assert done.returncode == 1, done


# ------------------------------------------------------------------------------------------------- logs


def test_json_logs(joined: Worker, cluster: Cluster) -> None:
    """With --log-format json each line on stderr is an object with time, level and message; errors too."""
    cluster.planes[0].stop()
    for arguments in (
        ["-v", "bootstrap", "--timeout", "500ms"],
        ["pin-host", "127.0.0.11"],
        ["frobnicate"],
        ["wait-vip", "--frobnicate"],
        ["--vip", "x", "reconcile"],
        ["unpin"],
    ):
        for how in (["--log-format", "json"], ["--log-format=json"])[
            : 2 if arguments == ["frobnicate"] else 1
        ]:
            done = joined.run(*how, *arguments).tells()
            events = [json.loads(line) for line in done.stderr.splitlines()]
            assert events, done
            for event in events:
                assert {"time", "level", "message"} <= event.keys()
                assert event["level"] in ("error", "warning", "info", "debug")
            if done.code:
                assert [event["level"] for event in events].count("error") == 1
                assert events[-1]["level"] == "error"
                assert events[-1]["exit_code"] == done.code


def test_piped_logs_carry_a_priority(joined: Worker, cluster: Cluster) -> None:
    """Piped, each event is one line that starts with the priority journald reads; results stay on stdout."""
    cluster.in_order()[0].stop()
    done = joined.run("-v", "bootstrap", "--timeout", "3s")
    assert done.code == 4, done
    lines = done.stderr.splitlines()
    assert len(lines) >= 3
    for line in lines:
        assert line.startswith("apiha: "), line
    assert lines[-1].startswith("apiha: error: ")
    assert "\x1b" not in done.stderr
    assert done.stdout == ""


def test_verbose_says_more(joined: Worker, cluster: Cluster) -> None:
    """-v adds lines for debugging."""
    cluster.vip.start()
    assert "debug: " not in joined.run("reconcile").ok().stderr
    assert "apiha: debug: " in joined.run("-v", "reconcile").ok().stderr


def test_progress_on_a_terminal(joined: Worker, cluster: Cluster) -> None:
    """On a terminal a wait shows what is tried, the time it took and the time that is left, and cleans up after."""
    seen = on_a_terminal(joined, "bootstrap", "--timeout", "5s")
    assert seen.code == 4, seen
    assert not re.search(r"<\d>", seen.written)
    assert re.search(rf"\r\x1b\[Kwaiting for the VIP {re.escape(VIP)}:\d+, pinned to 127", seen.written)
    assert re.search(r"\([\d.]+m?s so far, [\d.]+m?s left\)", seen.written)
    screen = [line for line in seen.screen if line]
    assert all(line.startswith("apiha: ") for line in screen), seen.written
    assert screen[-1].startswith("apiha: error: the VIP")


def test_progress_of_a_pin_on_a_terminal(joined: Worker, cluster: Cluster) -> None:
    """The wait of a pin shows its progress as well."""
    for plane in cluster.planes:
        plane.stop()
    seen = on_a_terminal(joined, "pin-host", "--wait", "3s")
    assert seen.code == 3, seen
    assert "no live control plane yet (" in seen.written
    assert "left)" in seen.written
    assert [line for line in seen.screen if line][-1].startswith("apiha: error: no live control plane")


def test_control_c_on_a_terminal(joined: Worker, cluster: Cluster) -> None:
    """^C during a wait leaves one readable line and exit code 130."""
    seen = on_a_terminal(joined, "wait-vip", keys={"waiting for the VIP": b"\x03"})
    assert seen.code == 130, seen
    assert [line for line in seen.screen if line][-1] == "apiha: error: interrupted"
    assert "Traceback" not in seen.written


def test_the_status_is_watched_on_a_terminal(joined: Worker, cluster: Cluster) -> None:
    """Drawn over itself, until ^C, which leaves the last screen alone; the exit code is that of a status."""
    # Nothing below the end, from the top, and again: a ^C amid a screen would take the rest of it away, termios(3).
    twice = re.escape("\x1b[J\x1b[H") + ".*" + re.escape("\x1b[J")
    seen = on_a_terminal(joined, "status", "--watch", keys={twice: b"\x03"})
    assert seen.code == joined.run("status").code == 9, seen
    screens = seen.written.count("every 2 s; ^C ends")
    # The second asks for the ^C, which a machine that stands still may type after the third.
    assert screens >= 2
    assert seen.written.count("has no block of apiha") == screens
    assert seen.written.endswith("\x1b[J^C\r\n")
    assert not re.search("Traceback|apiha: ", seen.written)


def test_the_status_is_watched_without_a_terminal(joined: Worker, cluster: Cluster) -> None:
    """One after the other; SIGINT ends it there as well."""
    running = joined.start("status", "--watch")
    assert running.process.stdout is not None
    assert running.process.stdout.readline().endswith("Z, every 2 s; ^C ends\n")
    running.process.send_signal(signal.SIGINT)
    assert running.finish().code == 9


# ------------------------------------------------------------------------------------------------- environment


def test_proxies_are_ignored(joined: Worker, cluster: Cluster) -> None:
    """A proxy in the environment plays no part: what is asked is this address and no other."""
    proxy = "http://127.0.0.1:9"
    env = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY"), proxy)
    env["SSL_CERT_FILE"] = "/nonexistent"
    env["SSL_CERT_DIR"] = "/nonexistent"
    joined.run("pin-host", env=env).ok()
    assert joined.addresses[0] == cluster.in_order()[0].address


def test_the_clis_own_defaults_are_the_machines() -> None:
    """What a node uses without options: /etc/apiha/config.yaml, /etc/hosts, /var/lib/apiha."""
    from apiha.cli.options import Invocation

    invocation = Invocation()
    places = (invocation.config_path, invocation.hosts_file, invocation.state_dir)
    assert tuple(map(str, places)) == ("/etc/apiha/config.yaml", "/etc/hosts", "/var/lib/apiha")
