"""The disk of a fresh Debian machine, made once by debootstrap; and whether this system can make and boot it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import netns
from tests.support.cache import cached

# What a minimal Debian node has. No Python package beyond the standard library: apiha has to bring its own.
PACKAGES = ("dbus", "iproute2", "nftables", "python3", "systemd", "systemd-sysv")
_TRIMMED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@functools.cache
def missing() -> str | None:
    """Why machines cannot be booted here, or None if they can."""
    packages = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "setpriv": "util-linux"}
    absent = [package for tool, package in packages.items() if shutil.which(tool) is None]
    if absent:
        return f"needs a machine that boots systemd: apt-get install {' '.join(absent)}, and run as root"
    return netns.missing()


requires_machine = pytest.mark.skipif(missing() is not None, reason=str(missing()))
"""Marks a test or a module (`pytestmark = requires_machine`) that boots a machine."""


def _release() -> dict[str, str]:
    """os-release(5) of this system."""
    pairs = (line.partition("=") for line in Path("/etc/os-release").read_text().splitlines())
    return {key: value.strip('"') for key, _, value in pairs}


def _mirror(suite: str) -> str:
    """The URI that this system's apt takes `suite` from. Raises RuntimeError if there is none."""
    listed = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in listed.stdout.splitlines():
        uri, release, component = line.split()
        if (release, component) == (suite, "main"):
            return uri
    raise RuntimeError(f"apt has no source for {suite} main")


def root_filesystem() -> Path:
    """The pristine root filesystem, built if this user has none yet: about a minute, 200 MB.

    Raises RuntimeError, with the end of debootstrap's output, if it cannot be built.
    """
    return cached("machine", recipe(PACKAGES), lambda folder: debootstrap(folder, PACKAGES))


def require_debian() -> None:
    """Build the root filesystem, or skip the test where there is no mirror to build it from. CI must have one."""
    try:
        root_filesystem()
    except RuntimeError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Debian to boot: {error}; run where apt-get works")


def recipe(packages: Sequence[str]) -> list[Any]:
    """What a disk with these packages is made from; another one means another disk."""
    return [_release().get("VERSION_CODENAME", ""), os.uname().machine, packages, _TRIMMED]


def debootstrap(directory: Path, packages: Sequence[str]) -> None:
    """Make a root filesystem with these packages, of this system's own release, in `directory`.

    Raises RuntimeError, with the end of debootstrap's output, if that fails three times: a mirror may hiccup.
    """
    suite = _release().get("VERSION_CODENAME", "")
    for tries in range(3):
        time.sleep(10 * tries)
        built = subprocess.run(
            [
                "debootstrap",
                "--variant=minbase",
                f"--include={','.join(packages)}",
                suite,
                directory,
                _mirror(suite),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{PATH}"},
        )
        if built.returncode == 0:
            break
        for path in directory.iterdir():  # half a system cannot be set up again
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    else:
        raise RuntimeError("debootstrap failed:\n" + "\n".join(built.stdout.splitlines()[-20:]))
    for name in _TRIMMED:
        shutil.rmtree(directory / name, ignore_errors=True)
    (directory / "var/log/journal").mkdir(exist_ok=True)  # a journal that outlives the boot it tells of
    # Not every machine the same, and none its first boot, at which systemd would enable every unit it finds.
    (directory / "etc/machine-id").unlink(missing_ok=True)
