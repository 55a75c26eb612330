"""Runs `make test` with every Python that apiha supports and this machine has; names those that it does not have.

    python tools/pythons.py [VARIABLE=VALUE ...]     # for make, such as TESTS=tests/unit

Each gets a virtual environment of its own below `.venvs/`. A Python is found on PATH, or where pyenv and uv install
theirs. Exit code 1 if the tests fail with any of them, or if none is found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SUPPORTED = tuple(f"3.{minor}" for minor in range(10, 15))


def candidates(version: str) -> Iterator[Path]:
    """Where a Python of this version may be, the likeliest place first."""
    on_path = shutil.which(f"python{version}")
    if on_path is not None:
        yield Path(on_path)
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv") / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python")
    for folder in (*sorted(pyenv.glob(f"{version}.*")), *sorted(uv.glob(f"cpython-{version}.*"))):
        yield folder / "bin" / f"python{version}"


def find(version: str) -> Path | None:
    """A Python of this version that runs and can make a virtual environment, None if there is none."""
    probe = f"import ensurepip, ssl, sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    for program in candidates(version):
        try:
            done = subprocess.run([program, "-c", probe], capture_output=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return program
    return None


def main(variables: list[str]) -> int:
    """Run the tests with each, then say how each went."""
    outcomes: dict[str, str] = {}
    failed = False
    for version in SUPPORTED:
        program = find(version)
        if program is None:
            outcomes[version] = f"skipped: no python{version} on PATH, nor among those of pyenv and uv"
            continue
        print(f"--- Python {version}: {program}", flush=True)
        began = time.monotonic()
        command = ["make", "--no-print-directory", "test", f"PYTHON={program}", f"VENV=.venvs/{version}"]
        done = subprocess.run([*command, *variables], cwd=REPOSITORY, check=False)
        seconds = time.monotonic() - began
        failed = failed or done.returncode != 0
        outcomes[version] = f"{'passed' if done.returncode == 0 else 'FAILED'} in {seconds:.0f} s ({program})"
    print("\n".join(f"Python {version}: {outcome}" for version, outcome in outcomes.items()))
    return 1 if failed or all(outcome.startswith("skipped") for outcome in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
