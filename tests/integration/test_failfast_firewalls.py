"""Beside a real firewalld, and beside rules that drop what belongs to no connection."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.failfast import Lab, nft
from tests.support.netns import requires_root
from tests.support.stalls import seconds_since
from tests.support.tcp import ask, dial

pytestmark = requires_root

PROGRAMS = ("firewalld", "firewall-cmd", "dbus-daemon")
needs_firewalld = pytest.mark.skipif(
    None in map(shutil.which, PROGRAMS),
    reason="needs firewalld and dbus-daemon: apt-get install firewalld dbus",
)
# A bus of its own: the machine's must not hear of this firewalld, and there may be none.
BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/>
</policy>
</busconfig>
"""


def the_breaker_works(lab: Lab) -> None:
    """Silence is found, a copy knocks, and its answer is heard."""
    target = lab.endpoints[0]
    established = lab.connect(target)
    lab.hosts[0].link_down()
    assert dial(lab.worker, target.address, target.port).refused
    assert ask(established).reset
    lab.hosts[0].link_up()
    begin = time.monotonic()
    while dial(lab.worker, target.address, target.port).error:
        assert seconds_since(begin) < 3.5  # without the knock it would be 4.5
        time.sleep(0.1)


@needs_firewalld
def test_firewalld_and_the_table_leave_each_other_alone(lab: Lab, tmp_path: Path) -> None:
    """A start, both kinds of reload and an end: the table and what it knows stay, and it works behind its rules."""
    socket = tmp_path / "bus"
    (tmp_path / "bus.conf").write_text(BUS.format(socket))
    environ = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={socket}"}
    bus = lab.worker.popen(
        ["dbus-daemon", f"--config-file={tmp_path / 'bus.conf'}", "--nofork", "--nopidfile"]
    )
    firewalld = None
    try:
        _eventually(socket.exists)
        firewalld = lab.worker.popen(["firewalld", "--nofork", "--nopid"], env=environ)

        def firewall_cmd(word: str) -> str:
            return lab.worker.run(["firewall-cmd", word], env=environ).stdout.strip()

        _eventually(lambda: firewall_cmd("--state") == "running")
        lab.hosts[1].link_down()
        silent = lab.endpoints[1]
        assert dial(lab.worker, silent.address, silent.port).refused
        for reload in ("--reload", "--complete-reload"):
            assert firewall_cmd(reload) == "success"
            assert lab.breaker(silent).silent_for is not None
        the_breaker_works(lab)
    finally:
        for process in (firewalld, bus):
            if process is not None:
                process.terminate()
                process.wait(20)
    assert lab.breaker(lab.endpoints[1]).silent_for is not None


def _eventually(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_rules_that_drop_invalid_packets_do_not_hide_the_answer_to_a_knock(lab: Lab) -> None:
    """As most firewalls have them, in `input` and `output`."""
    rule = "ct state invalid drop\nct state established,related,new,untracked accept\ndrop"
    nft(
        lab.worker,
        f"table inet firewall {{\n"
        f"chain input {{\ntype filter hook input priority 0;\niif lo accept\n{rule}\n}}\n"
        f"chain output {{\ntype filter hook output priority 0;\n{rule}\n}}\n}}\n",
    )
    the_breaker_works(lab)
