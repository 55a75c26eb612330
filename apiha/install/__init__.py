"""Installing on a node and leaving it again: units, a commented configuration, the kubelet drop-in.

What is to be written is first recorded with its checksum in /var/lib/apiha/install.json, so that uninstalling removes
exactly that, and nothing that somebody changed since. What was there before is not overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipimport
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from apiha import files
from apiha.config import template
from apiha.errors import ApihaError, NotPermitted
from apiha.hosts import HostsFile
from apiha.log import Reporter
from apiha.node.pin import report_change

if TYPE_CHECKING:
    from importlib.abc import Traversable  # moves to importlib.resources.abc, which Python 3.10 does not have

UNITS = (
    "apiha-bootstrap.service",
    "apiha-vip.service",
    "apiha-reconcile.service",
    "apiha-reconcile.timer",
    "apiha-reconcile.path",
)
UNIT_DIR = PurePosixPath("etc/systemd/system")  # the administrator's: a package manager would use /usr/lib
CONFIG = PurePosixPath("etc/apiha/config.yaml")
PROGRAM = PurePosixPath("usr/local/bin/apiha")  # where apiha.pyz copies itself, and what the units name
KUBELET_DROP_IN = PurePosixPath("etc/systemd/system/kubelet.service.d/20-apiha-http2.conf")
STATE = PurePosixPath("var/lib/apiha")
RECORD = STATE / "install.json"
SYSTEMD_RUNS = Path("/run/systemd/system")  # sd_booted(3)
# How the files end that a write of the hosts file in place leaves when it is killed (apiha.files.Journal).
_BYTES_OF_BEFORE = (".apiha-saved", ".apiha-backup", ".apiha-intended")
# The units set ProtectHome=yes and PrivateTmp=yes: what lies below is not there for them.
_HIDDEN_FROM_UNITS = ("home", "root", "tmp", "var/tmp", "run/user")


def shipped(name: str) -> str:
    """The text of a file of `systemd/`: inside the wheel or apiha.pyz, or beside the package in a source tree."""
    inside: Traversable = resources.files("apiha") / "systemd"
    folder = inside if inside.is_dir() else Path(__file__).resolve().parent.parent / "systemd"
    return folder.joinpath(*name.split("/")).read_text(encoding="utf-8")


def wanted_by(unit: str) -> list[str]:
    """The units that pull this one in once it is enabled: `WantedBy=` of its text (systemd.unit(5))."""
    return [word for line in unit.splitlines() if line.startswith("WantedBy=") for word in line[9:].split()]


def running_archive() -> Path | None:
    """The apiha.pyz that this process runs from, if it does."""
    loader = getattr(sys.modules["apiha"], "__loader__", None)
    return Path(loader.archive).resolve() if isinstance(loader, zipimport.zipimporter) else None


@dataclass(frozen=True, slots=True)
class _File:
    """A file that is to be there. `mark` is what the record says of it."""

    data: bytes
    mode: int = 0o644

    @property
    def mark(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class _Link:
    """A symlink that is to be there."""

    target: str

    @property
    def mark(self) -> str:
        return f"-> {self.target}"


@dataclass
class _Tree:
    """Files below a root, and a record of which of them are ours. Paths in the record start with `/`."""

    root: Path
    files: dict[str, str] = field(default_factory=dict)  # path to sha256, or to "-> TARGET" for a link
    folders: list[str] = field(default_factory=list)  # made by us, outermost first
    # What a run is about to write, kept on the disk meanwhile: a kill leaves nothing that nobody knows.
    pending: dict[str, str] = field(default_factory=dict)

    def at(self, path: PurePosixPath | str, *, follow: bool = False) -> Path:
        """Where a path of the machine or image lies; the only way from one to the other.

        Raises ApihaError if `..` or a symlink, as seen from outside of the image, leads out of it. A symlink at the
        path itself only counts with `follow`; without it the path must be used in ways that do not follow it.
        """
        relative = PurePosixPath(str(path).lstrip("/"))
        place = self.root / relative
        if not relative.parts or ".." in relative.parts:
            raise ApihaError(f"{place}: not a path inside of {self.root}; expected one without `..`")
        for followed in (place.parent, place) if follow else (place.parent,):
            target = Path(os.path.realpath(followed))
            if not target.is_relative_to(os.path.realpath(self.root)):
                raise ApihaError(
                    f"{followed} leads out of the image, to {target}: use `chroot`, or make that link relative"
                )
        return place

    @classmethod
    def recorded(cls, root: Path) -> _Tree:
        tree = cls(root)
        record = tree.at(RECORD, follow=True)
        try:
            document = json.loads(record.read_text(encoding="utf-8"))
            tree.files = dict(document["files"])
            tree.folders = list(document["folders"])
            tree.pending = dict(document.get("pending", {}))
            for path in (*tree.files, *tree.pending, *tree.folders):
                if not path.startswith("/") or ".." in path.split("/"):
                    raise ValueError(f"{path!r} is not a path that install writes")
        except FileNotFoundError:
            return tree
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ApihaError(
                f"{record}: damaged record of the installation ({error}); remove it to start anew"
            ) from None
        return tree

    def save(self) -> None:
        self.make_folder(STATE)
        document = {"files": self.files, "folders": self.folders, "pending": self.pending}
        self._replace(RECORD, _File(f"{json.dumps(document, indent=1)}\n".encode()))

    def mark(self, path: PurePosixPath | str) -> str | None:
        """What lies at a path, as the record would say it; "" for what install never makes, None for nothing."""
        place = self.at(path)
        if place.is_symlink():
            return f"-> {os.readlink(place)}"
        if place.is_file():
            return hashlib.sha256(place.read_bytes()).hexdigest()
        return "" if place.exists() else None

    def unchanged(self, path: str) -> bool:
        """Whether what lies at a recorded path is still what was put there."""
        return self.mark(path) in {self.files.get(path), self.pending.get(path)} - {None}

    def settle(self) -> None:
        """Sort out what an earlier run that was killed had got to."""
        for path, mark in self.pending.items():
            if self.mark(path) == mark:
                self.files[path] = mark
        self.pending = {}

    def foreign(self, path: PurePosixPath, wanted: _File | _Link) -> bool:
        """Whether just that is there already without our doing. Raises ApihaError if something else is."""
        there = self.mark(path)
        if there is None or f"/{path}" in self.files:
            return False
        if there != wanted.mark:
            raise ApihaError(
                f"{self.at(path)} is there already, and not from `apiha install`: nothing was installed; "
                "move it away, then install again"
            )
        return True

    def put(self, wanted: Mapping[PurePosixPath, _File | _Link]) -> None:
        """Write all of it, or nothing if something that is not ours is in the way (ApihaError)."""
        self.at(STATE, follow=True)
        self.settle()
        ours = {path: entry for path, entry in wanted.items() if not self.foreign(path, entry)}
        self.pending = {f"/{path}": entry.mark for path, entry in ours.items()}
        for path in (STATE, *(path.parent for path in ours)):
            self.folders += [
                f"/{folder}"
                for folder in _with_parents(path)
                if not self.at(folder).exists() and f"/{folder}" not in self.folders
            ]
        self.save()
        for path, entry in ours.items():
            self.make_folder(path.parent)
            if isinstance(entry, _File):
                self._replace(path, entry)
            elif self.mark(path) != entry.mark:
                self.at(path).unlink(missing_ok=True)
                self.at(path).symlink_to(entry.target)
        self.files |= self.pending
        self.pending = {}
        self.save()

    def make_folder(self, path: PurePosixPath) -> None:
        for folder in _with_parents(path):
            place = self.at(folder)
            if not place.exists():
                place.mkdir(mode=0o755)

    def _replace(self, path: PurePosixPath, file: _File) -> None:
        """Replace a file as a whole; a reader sees the old one or the new one."""
        place = self.at(path)
        try:
            status = place.lstat() if os.path.lexists(place) else None
            files.replace(str(place), file.data, status)
            place.chmod(file.mode)
        except files.ChangedMeanwhileError:
            raise ApihaError(f"{place}: another program wrote it just now; run it again") from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(place)) from None  # a full disk names no file

    def clear_state(self) -> list[Path]:
        """Remove what apiha keeps; returns the hosts file's bytes of before that a killed write left: those stay."""
        folder = self.at(STATE, follow=True)
        kept = []
        entries = (
            sorted(folder.iterdir(), key=lambda entry: entry.name == RECORD.name) if folder.is_dir() else []
        )
        for entry in entries:  # the record last: killed here, uninstall can be run again
            if entry.name.endswith(_BYTES_OF_BEFORE):
                kept.append(entry)
            elif entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        if not kept and not folder.is_symlink():
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
        return kept


def _with_parents(path: PurePosixPath) -> list[PurePosixPath]:
    """The folders on the way to a path, and itself, outermost first, without the root."""
    return [folder for folder in (*reversed(path.parents), path) if folder.parts]


@contextlib.contextmanager
def _permissions_explained(what: str) -> Iterator[None]:
    """File system errors as one line each."""
    try:
        yield
    except PermissionError as error:
        raise NotPermitted(f"cannot {what}: {error.filename}: {error.strerror}; run it as root") from None
    except OSError as error:
        raise ApihaError(f"cannot {what}: {error.filename}: {error.strerror}") from None


def install(
    report: Reporter,
    *,
    root: Path | None = None,
    kubelet_http2: bool = False,
    now: bool = False,
    settings: Mapping[str, str] | None = None,
) -> None:
    """Put the units, a commented configuration and, if asked, the kubelet drop-in on the machine or image at `root`.

    `settings` (key to text, already checked) are written into a new configuration. On a running machine the units
    are enabled by systemctl, and started if `now`; in an image by their links. Raises NotPermitted or ApihaError, the
    latter also where a file that install did not write is in the way; nothing is written then.
    """
    if root is not None and not root.is_dir():
        raise ApihaError(f"--root {root}: not a folder; expected where the image is mounted")
    with _permissions_explained("install"):
        tree = _Tree.recorded(root or Path("/"))
        wanted: dict[PurePosixPath, _File | _Link] = {}
        program, archive = _program(tree, in_image=root is not None)
        if archive is not None:
            wanted[PROGRAM] = archive
        config = tree.at(CONFIG)
        keep_config = os.path.lexists(config)
        if not keep_config:
            wanted[CONFIG] = _File(template(settings).encode())
        for unit in UNITS:
            text = shipped(unit).replace(f"/{PROGRAM}", program)
            wanted[UNIT_DIR / unit] = _File(text.encode())
            if root is not None:
                for target in wanted_by(text):
                    wanted[UNIT_DIR / f"{target}.wants" / unit] = _Link(f"/{UNIT_DIR / unit}")
        if kubelet_http2:
            wanted[KUBELET_DROP_IN] = _File(shipped("kubelet.service.d/20-apiha-http2.conf").encode())
        tree.put(wanted)
        if not keep_config:
            report.info(f"wrote {config}" + ("" if settings else ": fill in control_plane and vip"))
        else:
            report.info(f"kept {config}: it was there already")
            if settings:
                report.warning(
                    f"{config} was not changed: {', '.join(settings)} given here are not in it by this"
                )
        if kubelet_http2:
            report.info(f"wrote {tree.at(KUBELET_DROP_IN)}: takes effect when kubelet starts next")
    if root is None:
        _systemctl("daemon-reload")
        _systemctl("enable", *(["--now"] if now else []), *_enableable())
    report.info(f"installed and enabled {', '.join(UNITS)}; they run {program}")


def _enableable() -> list[str]:
    return [unit for unit in UNITS if wanted_by(shipped(unit))]


def _for_this_python(archive: bytes, *, in_image: bool) -> bytes:
    """The archive with the Python that runs it now in its first line, if it will run on this machine.

    `python3` may be too old where somebody had to write `python3.11 apiha.pyz install`. -I and -S (python(1)): nothing
    of the environment, the user's folders or site-packages plays a part; the archive has all it needs.
    """
    first, newline, rest = archive.partition(b"\n")
    if in_image or not first.startswith(b"#!") or not sys.executable:
        return archive
    return f"#!{sys.executable} -IS".encode() + newline + rest


def _program(tree: _Tree, *, in_image: bool) -> tuple[str, _File | None]:
    """The absolute path, as the machine will see it, of the program that the units run; what to put there, if so."""
    archive = running_archive()
    if archive is not None:
        if archive == tree.at(PROGRAM).resolve():
            return f"/{PROGRAM}", None
        return f"/{PROGRAM}", _File(_for_this_python(archive.read_bytes(), in_image=in_image), 0o755)
    program = Path(os.path.abspath(sys.argv[0]))
    if program.name == "__main__.py" or not os.access(program, os.X_OK):
        program = Path(sys.executable).with_name("apiha")
    if in_image and program.is_relative_to(tree.root.resolve()):
        program = Path("/") / program.relative_to(tree.root.resolve())
    if not os.access(tree.at(str(program), follow=True), os.X_OK):
        raise ApihaError(f"{program} is not in the image: install with apiha.pyz, which brings itself along")
    if not in_image and any(program.is_relative_to(f"/{hidden}") for hidden in _HIDDEN_FROM_UNITS):
        raise ApihaError(
            f"{program}: systemd units cannot see this place (ProtectHome, PrivateTmp); "
            "install apiha below /opt or /usr/local, or use apiha.pyz"
        )
    return str(program), None


def uninstall(
    report: Reporter, *, root: Path | None = None, hosts_file: Path, keep_block: bool = False
) -> None:
    """Leave the machine as it was before `install` and the first pin. What was edited since is kept, and named.

    Raises NotPermitted or ApihaError.
    """
    if root is not None and not root.is_dir():
        raise ApihaError(f"--root {root}: not a folder; expected where the image is mounted")
    with _permissions_explained("uninstall"):
        tree = _Tree.recorded(root or Path("/"))
        if root is not None and not keep_block:
            hosts_file = tree.at(str(hosts_file), follow=True)
        state = tree.at(STATE, follow=True)
        recorded = {
            path: tree.at(path) for path in {**tree.files, **tree.pending}
        }  # all, before any of it goes
        folders = [tree.at(folder) for folder in tree.folders]
        present = [unit for unit in UNITS if tree.at(UNIT_DIR / unit).exists()]
        if root is None and present:
            _systemctl("disable", "--now", *present)  # first: the path unit would put the block back
        if not keep_block and hosts_file.exists():
            change = HostsFile(hosts_file, state_dir=state).unpin()
            report_change(report, hosts_file, change)
            if change.written:
                report.info(
                    f"removed the block from {hosts_file}; clients on this node that name the host need another way"
                )
        for path, place in recorded.items():
            if tree.unchanged(path):
                place.unlink()
            elif os.path.lexists(place):
                report.warning(
                    f"kept {place}: it was changed since it was installed; remove it if you no longer need it"
                )
        for kept in tree.clear_state():
            report.warning(
                f"kept {kept}: bytes of a hosts file whose writing was interrupted; remove it if you do not need it"
            )
        for folder in reversed(folders):
            with contextlib.suppress(OSError):  # not empty: somebody else uses it now
                folder.rmdir()
    if root is None and present:
        _systemctl("daemon-reload")
        _systemctl("reset-failed", *present, check=False)
    report.info("uninstalled" if recorded else "nothing was installed by `apiha install`")


def _systemctl(*arguments: str, check: bool = True) -> None:
    """Run systemctl; raises ApihaError with its own words. Where systemd is not running only `enable` makes sense."""
    if not SYSTEMD_RUNS.is_dir() and arguments[0] not in ("enable", "disable"):
        return
    command = ["systemctl", *arguments]
    if not SYSTEMD_RUNS.is_dir():
        command = [word for word in command if word != "--now"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    except FileNotFoundError:
        raise ApihaError(
            "systemctl not found: this machine has no systemd; `--root /` installs the files alone"
        ) from None
    except subprocess.TimeoutExpired:
        raise ApihaError(f"`{' '.join(command)}` did not return within 90 s") from None
    if check and done.returncode != 0:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ApihaError(f"`{' '.join(command)}` failed: {words}")
