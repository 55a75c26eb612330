"""Builds `apiha_VERSION_all.deb`. What is fixed in it lies in `deploy/debian`; the rest is made here.

The packages that apiha needs are inside, below /usr/share/apiha: Debian has no python-hosts, Debian 12 has httpx 0.23,
and a node should run what the tests ran with. Nobody else imports them from there.

A Debian package is an ar archive of two tar archives (deb(5)). They are written here, not by dpkg-deb, so that it can
be built on any machine and the same tree gives the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import re
import tarfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from apiha import HOMEPAGE, __version__
from apiha.cli.main import cli
from apiha.config import PACKAGED
from apiha.install.units import DROP_INS, KUBELET_HTTP2, UNITS, enableable, shipped
from apiha.paths import PROGRAM
from tools import man
from tools.vendor import Package

REPOSITORY = Path(__file__).resolve().parents[1]
FIXED = REPOSITORY / "deploy/debian"
UNIT_DIR = "usr/lib/systemd/system"  # a package's; the administrator's, in /etc, come first
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
COMPLETIONS: Mapping[str, type[ShellComplete]] = {
    "usr/share/bash-completion/completions/apiha": BashComplete,
    "usr/share/fish/vendor_completions.d/apiha.fish": FishComplete,
    "usr/share/zsh/vendor-completions/_apiha": ZshComplete,
}


@dataclass(frozen=True)
class File:
    """A file of the package."""

    data: bytes
    mode: int = 0o644


def version() -> str:
    """The version as Debian orders it: a release candidate comes before the release (deb-version(7))."""
    return re.sub(r"(a|b|rc)", r"~\1", __version__)


def build(target: Path, tree: Path, packages: Sequence[Package], epoch: int) -> None:
    """Write the package with the modules of `tree`, everything in it dated `epoch` (Unix seconds)."""
    files = contents(tree, packages, epoch)
    size = sum(len(file.data) for file in files.values()) // 1024
    control = {
        "control": File(_filled("control", VERSION=version(), SIZE=str(size), HOMEPAGE=HOMEPAGE).encode()),
        "conffiles": File((FIXED / "conffiles").read_bytes()),
        "md5sums": File(
            "".join(
                f"{hashlib.md5(file.data, usedforsecurity=False).hexdigest()}  {path}\n"
                for path, file in sorted(files.items())
                if not path.startswith("etc/")
            ).encode()
        ),
    }
    started = [unit for unit in enableable() if not unit.endswith(".service")]
    for script in SCRIPTS:
        control[script] = File(_filled(script, TRIGGERS=" ".join(started)).encode(), 0o755)
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": _tar_xz(control, epoch),
        "data.tar.xz": _tar_xz(files, epoch),
    }
    target.write_bytes(_ar(members, epoch))


def contents(tree: Path, packages: Sequence[Package], epoch: int) -> dict[str, File]:
    """Path, without the slash in front, to every file of the package."""
    files = {
        f"usr/share/apiha/{path.relative_to(tree)}": File(path.read_bytes())
        for path in sorted(tree.rglob("*"))
        # The licences are in the copyright file.
        if path.is_file() and ".dist-info" not in path.relative_to(tree).parts[0]
    }
    files["usr/share/apiha/package.py"] = File((FIXED / "package.py").read_bytes())
    files["usr/bin/apiha"] = File((FIXED / "apiha").read_bytes(), 0o755)
    files["etc/apiha/config.yaml"] = File(PACKAGED.encode())
    files["usr/share/python3/runtime.d/apiha.rtupdate"] = File((FIXED / "apiha.rtupdate").read_bytes(), 0o755)
    files["usr/lib/systemd/system-preset/90-apiha.preset"] = File((FIXED / "90-apiha.preset").read_bytes())
    for name in (*UNITS, *DROP_INS):
        files[f"{UNIT_DIR}/{name}"] = File(shipped(name).replace(str(PROGRAM), "/usr/bin/apiha").encode())
    for name, text in man.pages().items():
        files[f"usr/share/man/man{name[-1]}/{name}.gz"] = File(_gzip(text.encode()))
    for path, shell in COMPLETIONS.items():
        complete = shell(cli, {}, "apiha", "_APIHA_COMPLETE")
        files[path] = File((complete.source_template % complete.source_vars()).encode())
    files["usr/share/doc/apiha/copyright"] = File(copyright_text(packages).encode())
    files["usr/share/doc/apiha/changelog.gz"] = File(_gzip(changelog_text(epoch).encode()))
    files[f"usr/share/doc/apiha/examples/{KUBELET_HTTP2.rpartition('/')[2]}"] = File(
        shipped(KUBELET_HTTP2).encode()
    )
    return files


def copyright_text(packages: Sequence[Package]) -> str:
    """Whose code is in the package, under which licence: the machine-readable format of Debian."""
    lines = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/",
        "Upstream-Name: apiha",
        f"Source: {HOMEPAGE}",
        "",
        "Files: *",
        "Copyright: The apiha authors",
        "License: Apache-2.0",
        " On Debian systems, the text of the Apache License, version 2.0, is in",
        " /usr/share/common-licenses/Apache-2.0.",
    ]
    for package in packages:
        module = package.name.replace("-", "_").replace("pyyaml", "yaml")
        text = "\n".join(package.licence_texts)
        holders = re.findall(r"^\s*Copyright .*\d{4}.*$", text, re.MULTILINE | re.IGNORECASE)
        holder = (
            " ".join(" ".join(holders).split()).replace("Copyright ", "") or f"the authors of {package.name}"
        )
        lines += [
            "",
            f"Files: usr/share/apiha/{module}/*",
            f"Copyright: {holder}",
            f"License: {package.name}",
            f" {package.name} {package.version}: {package.licence}",
            *(f" {line.rstrip() or '.'}" for line in text.splitlines()),
        ]
    return "\n".join(lines) + "\n"


def changelog_text(epoch: int) -> str:
    """What CHANGELOG.md says of this version, in the format of a Debian changelog (deb-changelog(5))."""
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(r"^## \[[^\]]*\].*?\n(.*?)(?=^## \[|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None, "CHANGELOG.md has no section"
    entries = re.findall(r"^- (.*?)(?=\n- |\n#|\n\n|\Z)", section[1], re.MULTILINE | re.DOTALL)
    maintainer = re.search(r"^Maintainer: (.*)$", (FIXED / "control").read_text(), re.MULTILINE)
    assert maintainer is not None, "deploy/debian/control names no maintainer"
    moment = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(epoch))
    lines = [
        textwrap.fill(" ".join(entry.split()), 78, initial_indent="  * ", subsequent_indent="    ")
        for entry in entries
    ]
    body = "\n".join(lines)
    return f"apiha ({version()}) unstable; urgency=medium\n\n{body}\n\n -- {maintainer[1]}  {moment}\n"


def _filled(name: str, **values: str) -> str:
    """A file of `deploy/debian` with its `@NAMES@` filled in."""
    text = (FIXED / name).read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def _gzip(data: bytes) -> bytes:
    """As `gzip -9n`: no name and no time in it."""
    return gzip.compress(data, 9, mtime=0)


def _tar_xz(files: Mapping[str, File], epoch: int) -> bytes:
    """The files with the folders on their way, root's, in the order of their names."""
    folders = {str(folder) for path in files for folder in Path(path).parents}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted({*files, *folders}):
            entry = tarfile.TarInfo("./" if path == "." else f"./{path}")
            entry.mtime, entry.uname, entry.gname = epoch, "root", "root"
            if path in files:
                entry.size, entry.mode = len(files[path].data), files[path].mode
                archive.addfile(entry, io.BytesIO(files[path].data))
            else:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
    return lzma.compress(out.getvalue(), preset=6)


def _ar(members: Mapping[str, bytes], epoch: int) -> bytes:
    """An ar archive as deb(5) wants it: each member behind a header of 60 bytes, at an even place."""
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{epoch:<12}{0:<6}{0:<6}{0o100644:<8o}{len(data):<10}`\n".encode() + data
        out += b"\n" * (len(data) % 2)
    return out
