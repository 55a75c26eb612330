"""What holds for every test."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# No deadline: a loaded machine is no reason to fail, and no property here is about the time an example takes.
# On CI (`.ci/run` sets SAME_EXAMPLES) the examples are the same each time: a change must not fail for what it did not
# touch. New ones are found by whoever runs the tests elsewhere.
# No database: tests write nothing into the checkout, which may be read-only; a failure prints how to replay it.
SAME = bool(os.environ.get("CI") or os.environ.get("SAME_EXAMPLES"))
settings.register_profile("apiha", deadline=None, database=None, print_blob=True, derandomize=SAME)
settings.load_profile("apiha")

# Started in the background by a shell, or under nohup, we would hand an ignored SIGINT down to every process that a
# test means to interrupt: signal(7).
signal.signal(signal.SIGINT, signal.default_int_handler)
