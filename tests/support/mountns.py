"""Python functions run in a mount namespace of their own: what they mount is gone when they are done.

def scenario(folder: Path) -> dict[str, Any]:     # a module's function; what it returns travels as JSON
    mountns.mount("-t", "tmpfs", "none", folder)
    ...

result = mountns.run(scenario, tmp_path)          # skips, with the reason, where there are no namespaces
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Scenario = Callable[[Path], dict[str, Any]]
ROOT = Path(__file__).parents[2]


@functools.cache
def _namespace() -> tuple[tuple[str, ...], str]:
    """The command that starts a program in a mount namespace, or why there is none."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return (), "needs unshare and mount: install util-linux and mount"
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    command = ("unshare", *user, "--mount", "--propagation", "private")
    trial = [*command, "mount", "-t", "tmpfs", "none", "/mnt"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    if done.returncode:
        return (), f"mount namespaces are forbidden here ({done.stderr.strip()}): run the tests as root"
    return command, ""


def run(scenario: Scenario, folder: Path, *, namespace: bool = True) -> dict[str, Any]:
    """Call `scenario(folder)` in a new interpreter, which has one thread and may fork; returns what it returns."""
    command, missing = _namespace() if namespace else ((), "")
    if missing:
        pytest.skip(missing)
    program = "import sys; from tests.support.mountns import answer; answer(*sys.argv[1:])"
    done = subprocess.run(
        [*command, sys.executable, "-c", program, scenario.__code__.co_filename, scenario.__name__, folder],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(result, dict)
    return result


def answer(module: str, scenario: str, folder: str) -> None:
    """The other side of `run`."""
    import runpy

    print(json.dumps(runpy.run_path(module)[scenario](Path(folder))))


def mount(*arguments: str | Path) -> None:
    """Call the program of that name, as root of the namespace."""
    subprocess.run(["mount", *arguments], check=True)
