"""The updater's image: built twice from the Containerfile, on a base of Debian's own Python, for want of a registry."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from apiha import __version__
from tests.support.kubeadm.images import pip_settings, python_base
from tests.support.machine import missing
from tools import image, sbom
from tools.vendor import Package, read_lock

pytestmark = [
    pytest.mark.skipif(
        shutil.which("buildah") is None or missing() is not None,
        reason=f"needs buildah, as root: apt-get install buildah; {missing() or ''}",
    ),
    pytest.mark.timeout(1800),
]

EPOCH = 1_700_000_000
LARGEST = 120_000_000  # bytes on top of the base, uncompressed
BASE = "localhost/python:debian"


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """buildah with a store of its own that holds the base, and told of this system's package index."""
    folder = tmp_path_factory.mktemp("buildah")
    options = f"--root {folder}/storage --runroot {folder}/run --storage-driver overlay"
    command = ["buildah", *options.split()]
    pip = folder / "pip.conf"
    volumes = [f"--volume={path}:{path}:ro" for path in pip_settings(pip)]
    try:
        base = python_base()
    except RuntimeError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Debian to stand on: {error}; run where apt-get works")
    subprocess.run([*command, "pull", "--quiet", f"docker-archive:{base}"], check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHON_IMAGE", BASE)
        patch.setenv(image.OPTIONS, options)
        patch.setenv(
            image.BUILD_OPTIONS, " ".join(["--network=host", f"--volume={pip}:/etc/pip.conf:ro", *volumes])
        )
        yield command
    subprocess.run([*command, "rm", "--all"], check=False, capture_output=True)
    subprocess.run([*command, "rmi", "--all", "--force"], check=False, capture_output=True)


@pytest.fixture(scope="module")
def built(buildah: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Package]]:
    """The archive, and what is said to be in it."""
    target = tmp_path_factory.mktemp("image") / "apiha.tar"
    return target, image.build(target, EPOCH)


def test_two_builds_are_the_same_to_the_byte(built: tuple[Path, list[Package]], tmp_path: Path) -> None:
    """Layers, configuration and archive."""
    again = tmp_path / "again.tar"
    image.build(again, EPOCH)
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (built[0], again)]
    assert sums[0] == sums[1]


def test_the_image_is_small_is_not_root_and_runs(
    built: tuple[Path, list[Package]], buildah: list[str], tmp_path: Path
) -> None:
    """Under 120 MB on top of the base, all of it in /opt/apiha; a number for a user; the command works as that one."""
    with tarfile.open(built[0]) as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # type: ignore[arg-type]
    *_, top = image.layers(tmp_path)
    plain = gzip.decompress(top.read_bytes())
    assert len(plain) < LARGEST
    (tmp_path / "top.tar").write_bytes(plain)
    with tarfile.open(tmp_path / "top.tar") as layer:
        names = [name for name in layer.getnames() if name not in ("opt", "opt/apiha")]
    assert [name for name in names if not name.startswith("opt/apiha/")] == []
    assert image.settings(tmp_path)["User"] == "65532:65532"
    container = subprocess.run(
        [*buildah, "from", f"apiha:{__version__}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    done = subprocess.run(
        [*buildah, "run", "--isolation=chroot", container, "--", "sh", "-c", "id -u && apiha --version"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["65532", "apiha", __version__]


def test_the_sbom_names_what_the_lock_names(built: tuple[Path, list[Package]]) -> None:
    """The packages of the updater's lock, and the base; valid by CycloneDX's own schema."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    archive, packages = built
    locked = {pin.name: pin.version for pin in read_lock(image.REPOSITORY / "requirements-updater.lock")}
    found = {package.name: package.version for package in packages}
    assert found.items() <= locked.items()
    assert {"httpx", "prometheus-client", "pyyaml"} <= set(found)
    pinned = "docker.io/library/python:3.13-slim@sha256:" + "0" * 64
    target = sbom.write(archive, packages, EPOCH, base=pinned)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(target.read_text()) is None


def test_the_base_is_pinned_by_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the Containerfile starts from unless told otherwise is the same image tomorrow."""
    monkeypatch.delenv("PYTHON_IMAGE", raising=False)
    name, _, digest = image.base().partition("@sha256:")
    assert name == "docker.io/library/python:3.13-slim"
    assert len(bytes.fromhex(digest)) == 32
