"""The packages that apiha needs on a node, unpacked into one folder: what `apiha.pyz` and the Debian package carry.

They are installed from `requirements-node.lock`, each checked against its hash. All of them work as pure Python, so one
folder serves every platform and every Python from 3.10 on; compiled accelerators are taken out.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LOCK = REPOSITORY / "requirements-node.lock"
OLDEST_PYTHON = "3.10"  # what `requires-python` promises
# httpx and httpcore import it only for async code, of which apiha has none; its own dependencies go with it.
UNUSED = frozenset({"anyio", "exceptiongroup", "typing-extensions"})
_OTHER_PLATFORM = re.compile(r"sys_platform == 'win32'|platform_system == 'Windows'")


@dataclass(frozen=True)
class Pin:
    """One entry of a lock: `name==version`, its marker ("" if it has none) and the hashes, `sha256:…`."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class Package:
    """A package that was unpacked: where it came from, its licence (SPDX or as its metadata words it) and texts."""

    name: str
    version: str
    sha256: str  # of the wheel
    licence: str
    licence_texts: tuple[str, ...]


def read_lock(path: Path = LOCK) -> list[Pin]:
    """The entries of a lock file as `uv pip compile --generate-hashes` writes it."""
    pins: list[Pin] = []
    for line in path.read_text(encoding="utf-8").replace(" \\\n", "\n").splitlines():
        if found := re.match(r"(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; (?P<marker>.*))?$", line.rstrip()):
            pins.append(Pin(found["name"], found["version"], found["marker"] or "", ()))
        elif found := re.match(r"\s+--hash=(\S+)", line):
            last = pins.pop()
            pins.append(Pin(last.name, last.version, last.marker, (*last.hashes, found[1])))
    return pins


def unpack(target: Path, wheel: Path) -> list[Package]:
    """Install apiha's wheel and what it needs into `target`; returns what was put there besides apiha itself.

    Raises CalledProcessError if a package cannot be downloaded or is not the one that was locked.
    """
    pins = [pin for pin in read_lock() if pin.name not in UNUSED and not _OTHER_PLATFORM.search(pin.marker)]
    with tempfile.TemporaryDirectory(prefix="apiha-vendor-") as folder:
        # pip reads markers for the Python that runs it; here each package is for all of them.
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text(
            "".join(
                f"{pin.name}=={pin.version} {' '.join(f'--hash={hash_}' for hash_ in pin.hashes)}\n"
                for pin in pins
            )
        )
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pip += ["--target", str(target), "--no-deps", "--no-compile"]
        locked = ["--python-version", OLDEST_PYTHON, "--only-binary", ":all:", "--require-hashes"]
        subprocess.run([*pip, *locked, "--report", str(report), "--requirement", str(wanted)], check=True)
        shutil.rmtree(target / "bin")
        subprocess.run([*pip, "--no-index", str(wheel)], check=True)
        installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    sums = {
        normal(entry["metadata"]["name"]): entry["download_info"]["archive_info"]["hashes"]["sha256"]
        for entry in installed
    }
    packages = [_package(target, pin, sums[normal(pin.name)]) for pin in pins]
    _prune(target)
    return packages


def normal(name: str) -> str:
    """The name as the Python packaging specification normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _package(tree: Path, pin: Pin, sha256: str) -> Package:
    info = next(
        path for path in tree.glob("*.dist-info") if normal(path.name.split("-")[0]) == normal(pin.name)
    )
    metadata = message_from_bytes((info / "METADATA").read_bytes())
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier", [])
        if line.startswith("License :: ")
    ]
    licence = metadata["License-Expression"] or metadata["License"] or ", ".join(classifiers)
    texts = sorted(path for path in info.rglob("*") if re.match(r"(LICEN[CS]E|COPYING|NOTICE)", path.name))
    return Package(
        pin.name,
        pin.version,
        sha256,
        " ".join(str(licence).split()),
        tuple(path.read_text(encoding="utf-8").strip() for path in texts),
    )


def _prune(tree: Path) -> None:
    """Take out what no node needs, and what would differ from one build or platform to the next."""
    for path in sorted(tree.rglob("*"), reverse=True):
        inside = path.relative_to(tree)
        if path.is_dir() or not path.exists():
            continue
        if path.suffix in (".so", ".pyi", ".pyc") or inside.parts[0] == "bin":  # apiha's own
            path.unlink()
        elif (
            inside.parts[0].endswith(".dist-info")
            and "licen" not in str(inside.relative_to(inside.parts[0])).lower()
        ):
            path.unlink()  # where it was installed from, when and how
    (tree / "httpx/_main.py").unlink()  # httpx's own command line, which it looks for at each import
    (tree / "certifi/cacert.pem").unlink()  # apiha trusts the cluster's CA and no other
    for folder in sorted((path for path in tree.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            shutil.rmtree(folder)
