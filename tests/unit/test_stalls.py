"""What the tests take for the machine's own fault: `tests.support.stalls`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """\
import sys, time
from tests.support.stalls import seconds_since, watch_for_stalls
watch_for_stalls()
begin = time.monotonic()
print("begun", flush=True)
sys.stdin.read()
print(time.monotonic() - begin, seconds_since(begin))
"""


def test_the_time_in_which_we_are_stopped_does_not_count() -> None:
    """A process that is stopped for a second in the middle of 0.6 s; what it waited itself counts."""
    command = [sys.executable, "-c", PROGRAM]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        time.sleep(0.3)
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.3)
        process.stdin.close()
        all_of_it, counted = map(float, process.stdout.read().split())
    assert all_of_it >= 1.2
    assert all_of_it - counted > 0.9
    assert counted > 0
