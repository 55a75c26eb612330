"""Builds the updater's image from the Containerfile, by buildah, as an OCI archive: one file that `podman load`,
`skopeo copy oci-archive:FILE docker://…` and `ctr images import` read.

    PYTHON_IMAGE=registry.example.com/python:3.13-slim@sha256:… python -m tools.dist image     # on another base
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from email import message_from_bytes
from pathlib import Path
from typing import Any

from apiha import __version__
from tools.vendor import Package, normal

REPOSITORY = Path(__file__).resolve().parents[1]
CONTAINERFILE = REPOSITORY / "Containerfile"
# More options, from the environment: for buildah (`--root`, say), and for its `build` (`--volume`, `--network`).
OPTIONS, BUILD_OPTIONS = "BUILDAH_OPTIONS", "BUILDAH_BUILD_OPTIONS"


def base() -> str:
    """The image that it stands on: `PYTHON_IMAGE`, else what the Containerfile names."""
    found = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", CONTAINERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, "the Containerfile has no ARG PYTHON_IMAGE"
    return os.environ.get("PYTHON_IMAGE") or found[1]


def missing() -> str | None:
    """Why no image can be built here, None if it can be tried."""
    return None if shutil.which("buildah") else "there is no buildah: apt-get install buildah"


def build(target: Path, epoch: int) -> list[Package]:
    """Write the archive, everything in it dated `epoch` (Unix seconds); returns the Python packages that are in it.

    Raises CalledProcessError, with buildah's own words on stderr, where the base cannot be pulled, say.
    """
    with tempfile.TemporaryDirectory(prefix="apiha-image-") as name:
        layout = Path(name) / "layout"
        tag = f"apiha:{__version__}"
        arguments = {"PYTHON_IMAGE": base(), "SOURCE_DATE_EPOCH": str(epoch)}
        buildah = ["buildah", *os.environ.get(OPTIONS, "").split()]
        subprocess.run(
            [
                *buildah,
                "build",
                *os.environ.get(BUILD_OPTIONS, "").split(),
                "--quiet",
                "--format=oci",
                "--isolation=chroot",  # needs no more rights than buildah itself
                f"--timestamp={epoch}",
                *(f"--build-arg={key}={value}" for key, value in arguments.items()),
                f"--tag={tag}",
                f"--file={CONTAINERFILE}",
                str(REPOSITORY),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        subprocess.run(
            [*buildah, "push", "--quiet", tag, f"oci:{layout}:{tag}"], check=True, stdout=subprocess.DEVNULL
        )
        _pack(layout, target, epoch)
        return _packages(layout)


def layers(layout: Path) -> list[Path]:
    """The layers of the one image of an OCI layout, the lowest first."""
    return [_blob(layout, layer["digest"]) for layer in _manifest(layout)["layers"]]


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def settings(layout: Path) -> dict[str, Any]:
    """How a container of it is run: user, entry point, environment, labels (OCI image specification, `config`)."""
    found: dict[str, Any] = json.loads(_blob(layout, _manifest(layout)["config"]["digest"]).read_text())[
        "config"
    ]
    return found


def _manifest(layout: Path) -> dict[str, Any]:
    index = json.loads((layout / "index.json").read_text())
    found: dict[str, Any] = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_text())
    return found


def _pack(layout: Path, target: Path, epoch: int) -> None:
    """The layout as a tar archive; buildah's own would carry the time of now."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(path for path in layout.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(path.relative_to(layout)))
            entry.size, entry.mtime, entry.mode = path.stat().st_size, epoch, 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)


def _packages(layout: Path) -> list[Package]:
    """What is installed in the topmost layers' /opt/apiha, apiha itself left out."""
    found: dict[str, Package] = {}
    for layer in layers(layout):
        data = layer.read_bytes()
        plain = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
            for entry in archive:
                if re.fullmatch(r"(\./)?opt/apiha/.*\.dist-info/METADATA", entry.name):
                    file = archive.extractfile(entry)
                    assert file is not None, entry.name
                    metadata = message_from_bytes(file.read())
                    name = normal(str(metadata["Name"]))
                    licence = str(metadata["License-Expression"] or metadata["License"] or "unknown")
                    found[name] = Package(name, str(metadata["Version"]), "", " ".join(licence.split()), ())
    found.pop("apiha", None)
    return [found[name] for name in sorted(found)]
