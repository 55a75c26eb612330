"""The time that an artifact bears: that of the commit it is built from, so that two builds give the same bytes.

https://reproducible-builds.org/specs/source-date-epoch/
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# hatchling's own, for a source tree without git: 2020-02-02.
NO_COMMIT = 1580601600


def source_date_epoch() -> int:
    """Seconds since 1970: `SOURCE_DATE_EPOCH`, else the time of the commit, else a fixed one."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    git = ["git", "-C", str(REPOSITORY), "log", "-1", "--format=%ct"]
    if not (REPOSITORY / ".git").exists():
        return NO_COMMIT
    try:
        return int(subprocess.run(git, check=True, capture_output=True, text=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):  # no git, or no commit yet
        return NO_COMMIT
