"""What takes long to make and seldom changes: kept from one test run to the next.

    disk = cached("machine", ["bookworm", PACKAGES], lambda folder: debootstrap(folder, PACKAGES))

The cache is `$APIHA_TEST_CACHE`, else `apiha` in the user's cache folder. Deleting it is always safe.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Where things are kept; made if absent."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apiha"
    folder = Path(os.environ.get("APIHA_TEST_CACHE") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def digest(inputs: Any) -> str:
    """A short name for `inputs` (what JSON can hold)."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(paths: Iterable[Path]) -> list[list[Any]]:
    """The files among `paths`, and below the folders among them, each with its contents' hash."""
    files: list[Path] = []
    for path in paths:
        files += sorted(path.rglob("*")) if path.is_dir() else [path]
    return [
        [str(file), hashlib.sha256(file.read_bytes()).hexdigest()]
        for file in files
        if file.is_file() and "__pycache__" not in file.parts
    ]


def cached(name: str, inputs: Any, build: Callable[[Path], None], keep: int = 2) -> Path:
    """The folder that `build` made for these `inputs`, now or in an earlier run.

    A build that fails leaves nothing; of the folders of this name the newest `keep` stay: another checkout may use one.
    What `build` raises is raised.
    """
    cache = cache_folder()
    finished = cache / f"{name}-{digest(inputs)}"
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.is_dir():
            for abandoned in cache.glob(f"building-{name}-*"):  # ours alone while the lock is held
                shutil.rmtree(abandoned)
            building = Path(tempfile.mkdtemp(prefix=f"building-{name}-", dir=cache))
            building.chmod(0o755)
            try:
                build(building)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
            building.rename(finished)
            # 16 digits, so that `machine` does not take `machine-kubeadm` for its own.
            old = [path for path in cache.glob(f"{name}-{'?' * 16}") if path != finished]
            for path in sorted(old, key=lambda path: path.stat().st_mtime)[: max(0, len(old) + 1 - keep)]:
                shutil.rmtree(path)
    return finished
