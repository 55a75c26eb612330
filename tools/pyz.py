"""Builds `apiha.pyz`: one file that runs on a node with nothing but python3 (3.10 or newer).

All runtime dependencies are pure Python, so a zip archive that Python runs (PEP 441) can carry them. It holds
sources, and for the building Python also bytecode (checked against nothing, PEP 552), which spares the node 300 ms.
`apiha install` compiles them for the Python of the node.

    python -m tools.pyz WHEEL TARGET     # with nothing but the standard library and pip, for the Containerfile
"""

from __future__ import annotations

import py_compile
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from tools.epoch import source_date_epoch
from tools.vendor import unpack

# Read by whatever `python3` the node has, so in the syntax of all of them.
MAIN = """\
import sys

if sys.version_info < (3, 10):
    sys.exit("apiha: error: needs Python 3.10 or newer, and %s is %d.%d" % ((sys.executable,) + sys.version_info[:2]))

from apiha.start import main

main()
"""
OLDEST = 315532800  # 1980-01-01: a zip archive knows no earlier time


def build(target: Path, tree: Path, epoch: int) -> None:
    """Write the archive of `tree`, every file dated `epoch` (Unix seconds): the same tree gives the same bytes."""
    files = {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    for name in sorted(name for name in files if name.endswith(".py")):
        compiled = tree / f"{name}c"
        py_compile.compile(
            str(tree / name),
            cfile=str(compiled),
            dfile=name,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            doraise=True,
        )
        files[f"{name}c"] = compiled.read_bytes()
        compiled.unlink()
    files["__main__.py"] = MAIN.encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    moment = time.gmtime(max(epoch, OLDEST))[:6]
    with target.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # stored: inflating costs 20 ms
            for name in sorted(files):
                entry = zipfile.ZipInfo(name, moment)
                entry.external_attr = 0o100644 << 16
                entry.create_system = 3  # Unix, wherever it is built
                archive.writestr(entry, files[name])
    target.chmod(0o755)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="apiha-pyz-") as name:
        unpack(Path(name), Path(sys.argv[1]))
        build(Path(sys.argv[2]), Path(name), source_date_epoch())
