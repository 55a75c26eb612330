"""Where each way to start apiha begins: `apiha`, `python -m apiha`, `apiha.pyz`, the Debian package."""

from __future__ import annotations

import gc
import sys
from typing import NoReturn

# Python looks for cycles to free each time 700 more objects have been made: some forty times while it imports what a
# pin needs, where everything stays. That takes 7 ms of 118. It is not switched off: `--wait` may take long.
PIN_THRESHOLD = 50_000
# httpx and httpcore import these if they can, and do without: what async code needs, and httpx's own command line.
# apiha uses neither. 50 ms where all of that and rich are installed.
UNUSED = ("anyio", "httpx._main")


def main() -> NoReturn:
    """Run the command line. A worker's boot waits for `apiha pin-host`: that starts as fast as it can."""
    if "pin-host" in sys.argv[1:]:
        gc.set_threshold(PIN_THRESHOLD)
    for name in UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # its import fails at once, as if it were not there
    try:
        from apiha.cli.main import main as run
    except KeyboardInterrupt:  # half a second on a busy machine; nothing has been done yet
        if sys.stderr is not None:
            sys.stderr.write("apiha: error: interrupted\n")
        sys.exit(130)  # ExitCode.INTERRUPTED
    run()
