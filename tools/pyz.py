"""Builds `apiha.pyz`: one file that runs on a node with nothing but python3 (3.10 or newer).

All runtime dependencies are pure Python, so a zip archive that Python runs (PEP 441) can carry them. It holds
sources, and for the building Python also bytecode (checked against nothing, PEP 552), which spares the node 300 ms.
"""

from __future__ import annotations

import py_compile
import shutil
import subprocess
import sys
import tempfile
import zipapp
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = "3.10"  # what `requires-python` promises; its markers also cover every newer one
# Read by whatever `python3` the node has, so in the syntax of all of them.
MAIN = """\
import sys

if sys.version_info < (3, 10):
    sys.exit("apiha: error: needs Python 3.10 or newer, and %s is %d.%d" % ((sys.executable,) + sys.version_info[:2]))

from apiha.cli.main import main

main()
"""


def build(target: Path) -> None:
    """Write the archive; raises CalledProcessError if a dependency cannot be had."""
    lock = (REPOSITORY / "requirements-dev.lock").read_text()
    with tempfile.TemporaryDirectory(prefix="apiha-pyz-") as folder:
        constraints = Path(folder) / "constraints.txt"
        pins = [
            line.rstrip(" \\")
            for line in lock.splitlines()
            if "==" in line and not line.startswith((" ", "#"))
        ]
        constraints.write_text("\n".join(pins) + "\n")
        tree = Path(folder) / "tree"
        wheel = next(iter(sorted((REPOSITORY / "dist").glob("apiha-*.whl"))), None)
        if wheel is None:
            sys.exit("pyz: no wheel in dist/; run `make dist`")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += [
            "--target",
            str(tree),
            "--python-version",
            OLDEST_PYTHON,
            "--only-binary",
            ":all:",
            "--no-compile",
        ]
        # pip reads the markers of dependencies for the running Python: what only older ones need is named here.
        needed = [str(wheel), "exceptiongroup", "typing-extensions"]
        subprocess.run([*command, "--constraint", str(constraints), *needed], check=True)
        _prune(tree)
        for source in tree.rglob("*.py"):
            py_compile.compile(
                str(source),
                cfile=str(source.with_suffix(".pyc")),
                dfile=str(source.relative_to(tree)),
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
                doraise=True,
            )
        (tree / "__main__.py").write_text(MAIN)
        target.parent.mkdir(parents=True, exist_ok=True)
        zipapp.create_archive(
            tree, target, interpreter="/usr/bin/env python3"
        )  # stored: inflating costs 20 ms
        target.chmod(0o755)


def _prune(tree: Path) -> None:
    """Take out what no node needs: compiled accelerators (of one platform only) and scripts."""
    for library in [*tree.rglob("*.so"), *tree.rglob("*.pyi")]:
        library.unlink()
    shutil.rmtree(tree / "bin", ignore_errors=True)
    (tree / "httpx/_main.py").unlink()  # httpx's own command line, which it looks for at each import


if __name__ == "__main__":
    build(Path(sys.argv[1]))
