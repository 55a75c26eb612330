"""What the tests take for the machine's own fault: `tests.support.stalls`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """\
import time
from tests.support.stalls import seconds_since, watch_for_stalls
watch_for_stalls()
begin = time.monotonic()
print("begun", flush=True)
time.sleep(0.3)
time.sleep(0.3)
print(time.monotonic() - begin, seconds_since(begin))
"""


def test_the_time_in_which_we_are_stopped_does_not_count() -> None:
    """A process that is stopped for a second in the middle of 0.6 s; what it slept itself counts."""
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        process.send_signal(signal.SIGCONT)
        all_of_it, counted = map(float, process.stdout.read().split())
    assert all_of_it >= 1.2
    assert all_of_it - counted > 0.9
    assert counted > 0
