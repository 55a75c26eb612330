"""Builds what a release consists of, into `dist/`. Two builds of one commit give the same bytes.

python -m tools.dist                 # all of it, the checksums and the SBOMs
python -m tools.dist pyz deb         # these only, as fast as possible
python -m tools.dist --out FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from apiha import __version__
from tools import deb, image, pyz, sbom
from tools.epoch import source_date_epoch
from tools.vendor import Package, unpack

REPOSITORY = Path(__file__).resolve().parents[1]
KINDS = ("wheel", "sdist", "pyz", "deb", "image")
SUMS = "SHA256SUMS"


def names() -> dict[str, str]:
    """Kind to the name of the artifact."""
    return {
        "wheel": f"apiha-{__version__}-py3-none-any.whl",
        "sdist": f"apiha-{__version__}.tar.gz",
        "pyz": "apiha.pyz",
        "deb": f"apiha_{deb.version()}_all.deb",
        "image": f"apiha-{__version__}-oci.tar",
    }


def build(kinds: set[str], out: Path) -> list[Path]:
    """Build these; returns what was made. Raises CalledProcessError."""
    epoch = source_date_epoch()
    out.mkdir(parents=True, exist_ok=True)
    made: dict[Path, list[Package]] = {}
    base: dict[Path, str] = {}
    with tempfile.TemporaryDirectory(prefix="apiha-dist-") as name:
        folder = Path(name)
        for kind in ("wheel", "sdist"):
            if kind in kinds or kind == "wheel":
                made[_python_build(kind, folder, epoch)] = []
        if kinds & {"pyz", "deb"}:
            tree, wheel = folder / "tree", folder / names()["wheel"]
            packages = unpack(tree, wheel)
            if "pyz" in kinds:
                pyz.build(folder / names()["pyz"], tree, epoch)
                made[folder / names()["pyz"]] = packages
            if "deb" in kinds:
                deb.build(folder / names()["deb"], tree, packages, epoch)
                made[folder / names()["deb"]] = packages
        if "image" in kinds:
            target = folder / names()["image"]
            reason = image.missing()
            if reason is None:
                try:
                    made[target] = image.build(target, epoch)
                    base[target] = image.base()
                except subprocess.CalledProcessError:
                    reason = (
                        f"buildah failed, see above; PYTHON_IMAGE= takes another base than {image.base()}"
                    )
            if reason is not None:
                print(f"dist: no image: {reason}", file=sys.stderr)
        if "wheel" not in kinds:
            del made[folder / names()["wheel"]]
        done = []
        for artifact, packages in made.items():
            written = [artifact]
            if kinds == set(KINDS):
                written.append(sbom.write(artifact, packages, epoch, base=base.get(artifact)))
            for path in written:
                done.append(Path(shutil.move(path, out / path.name)))
    if kinds == set(KINDS):
        lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(done)]
        (out / SUMS).write_text("".join(lines))
        done.append(out / SUMS)
    return done


def _python_build(kind: str, folder: Path, epoch: int) -> Path:
    """The wheel or the sdist, by hatchling, which dates its files by SOURCE_DATE_EPOCH."""
    command = [
        sys.executable,
        "-m",
        "build",
        "--quiet",
        "--no-isolation",
        f"--{kind}",
        "--outdir",
        str(folder),
    ]
    subprocess.run(
        [*command, str(REPOSITORY)],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
    )
    return folder / names()[kind]


def main() -> int:
    """Build what is asked for; print what was made."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (default all)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "dist", help="where to (default dist)")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join(KINDS)}")
    kinds = set(options.kinds or KINDS)
    if kinds == set(KINDS):
        shutil.rmtree(options.out, ignore_errors=True)
    for path in build(kinds, options.out):
        print(f"{path.stat().st_size:>10,}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
