"""Installing on a node and leaving it again: units, a commented configuration, the kubelet drop-in.

What is written is recorded with its checksum in /var/lib/apiha/install.json, so that uninstalling removes exactly
that, and nothing that somebody changed since.
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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.abc import Traversable
from pathlib import Path, PurePosixPath

from apiha.config import template
from apiha.errors import ApihaError, NotPermitted
from apiha.hosts import HostsFile
from apiha.log import Reporter

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


@dataclass
class _Tree:
    """Files below a root, and a record of which of them are ours. Paths in the record start with `/`."""

    root: Path
    files: dict[str, str] = field(default_factory=dict)  # path to sha256, or to "-> TARGET" for a link
    folders: list[str] = field(default_factory=list)  # made by us, outermost first

    def at(self, path: PurePosixPath) -> Path:
        return self.root / path

    @classmethod
    def recorded(cls, root: Path) -> _Tree:
        try:
            document = json.loads((root / RECORD).read_text())
            return cls(root, dict(document["files"]), list(document["folders"]))
        except FileNotFoundError:
            return cls(root)
        except (ValueError, KeyError, TypeError) as error:
            raise ApihaError(
                f"{root / RECORD}: damaged record of the installation ({error}); remove it to start anew"
            ) from None

    def save(self) -> None:
        self.make_folder(STATE)
        document = {"files": self.files, "folders": self.folders}
        _replace(self.at(RECORD), f"{json.dumps(document, indent=1)}\n".encode(), 0o644)

    def stay_inside(self, folders: Iterable[PurePosixPath]) -> None:
        """Raise ApihaError if a symlink, as seen from outside of the image, leads out of it."""
        root = self.root.resolve()
        for folder in folders:
            if not self.at(folder).resolve().is_relative_to(root):
                raise ApihaError(
                    f"{self.at(folder)} leads out of the image, to {self.at(folder).resolve()}: "
                    "use `chroot`, or make that link relative"
                )

    def make_folder(self, path: PurePosixPath) -> None:
        for folder in [*reversed(path.parents), path]:
            if not self.at(folder).exists():
                self.at(folder).mkdir(mode=0o755)
                self.folders.append(f"/{folder}")

    def write(self, path: PurePosixPath, data: bytes, mode: int) -> None:
        """Replace a file as a whole; a reader sees the old one or the new one."""
        self.make_folder(path.parent)
        _replace(self.at(path), data, mode)
        self.files[f"/{path}"] = hashlib.sha256(data).hexdigest()

    def link(self, path: PurePosixPath, target: str) -> None:
        self.make_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):
            self.at(path).unlink()
        self.at(path).symlink_to(target)
        self.files[f"/{path}"] = f"-> {target}"

    def unchanged(self, path: str) -> bool:
        """Whether what lies at a recorded path is still what was put there."""
        place = self.root / path.lstrip("/")
        if place.is_symlink():
            return self.files[path] == f"-> {os.readlink(place)}"
        return place.is_file() and self.files[path] == hashlib.sha256(place.read_bytes()).hexdigest()


def _replace(place: Path, data: bytes, mode: int) -> None:
    beside = place.with_name(f".{place.name}.apiha-new")
    try:
        beside.write_bytes(data)
        beside.chmod(mode)
        os.replace(beside, place)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


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
    are enabled by systemctl, and started if `now`; in an image by their links. Raises NotPermitted or ApihaError.
    """
    if root is not None and not root.is_dir():
        raise ApihaError(f"--root {root}: not a folder; expected where the image is mounted")
    with _permissions_explained("install"):
        tree = _Tree.recorded(root or Path("/"))
        tree.stay_inside((STATE, CONFIG.parent, UNIT_DIR, PROGRAM.parent, KUBELET_DROP_IN.parent))
        program = _install_program(tree, in_image=root is not None)
        config = tree.at(CONFIG)
        if config.exists() or config.is_symlink():
            report.info(f"kept {config}: it was there already")
            if settings:
                report.warning(
                    f"{config} was not changed: {', '.join(settings)} given here are not in it by this"
                )
        else:
            tree.write(CONFIG, template(settings).encode(), 0o644)
            report.info(f"wrote {config}" + ("" if settings else ": fill in control_plane and vip"))
        for unit in UNITS:
            text = shipped(unit).replace(f"/{PROGRAM}", program)
            tree.write(UNIT_DIR / unit, text.encode(), 0o644)
            if root is not None:
                for target in wanted_by(text):
                    tree.link(UNIT_DIR / f"{target}.wants" / unit, f"/{UNIT_DIR / unit}")
        if kubelet_http2:
            tree.write(KUBELET_DROP_IN, shipped("kubelet.service.d/20-apiha-http2.conf").encode(), 0o644)
            report.info(f"wrote {tree.at(KUBELET_DROP_IN)}: takes effect when kubelet starts next")
        tree.save()
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


def _install_program(tree: _Tree, *, in_image: bool) -> str:
    """The absolute path, as the machine will see it, of the program that the units run."""
    archive = running_archive()
    if archive is not None:
        if archive != tree.at(PROGRAM).resolve():
            tree.write(PROGRAM, _for_this_python(archive.read_bytes(), in_image=in_image), 0o755)
        return f"/{PROGRAM}"
    program = Path(os.path.abspath(sys.argv[0]))
    if program.name == "__main__.py" or not os.access(program, os.X_OK):
        program = Path(sys.executable).with_name("apiha")
    if in_image and program.is_relative_to(tree.root.resolve()):
        program = Path("/") / program.relative_to(tree.root.resolve())
    if not os.access(tree.root / str(program).lstrip("/"), os.X_OK):
        raise ApihaError(f"{program} is not in the image: install with apiha.pyz, which brings itself along")
    if not in_image and any(program.is_relative_to(f"/{hidden}") for hidden in _HIDDEN_FROM_UNITS):
        raise ApihaError(
            f"{program}: systemd units cannot see this place (ProtectHome, PrivateTmp); "
            "install apiha below /opt or /usr/local, or use apiha.pyz"
        )
    return str(program)


def uninstall(
    report: Reporter, *, root: Path | None = None, hosts_file: Path, keep_block: bool = False
) -> None:
    """Leave the machine as it was before `install` and the first pin. What was edited since is kept, and named.

    Raises NotPermitted or ApihaError.
    """
    base = root or Path("/")
    if root is not None:
        if not root.is_dir():
            raise ApihaError(f"--root {root}: not a folder; expected where the image is mounted")
        hosts_file = root / str(hosts_file).lstrip("/")
    with _permissions_explained("uninstall"):
        tree = _Tree.recorded(base)
        present = [unit for unit in UNITS if tree.at(UNIT_DIR / unit).exists()]
        if root is None and present:
            _systemctl("disable", "--now", *present)  # first: the path unit would put the block back
        if not keep_block and hosts_file.exists():
            change = HostsFile(hosts_file, state_dir=base / STATE).unpin()
            if change.written:
                report.info(
                    f"removed the block from {hosts_file}; clients on this node that name the host need another way"
                )
        for path in list(tree.files):
            place = base / path.lstrip("/")
            if tree.unchanged(path):
                place.unlink()
            elif place.exists() or place.is_symlink():
                report.warning(
                    f"kept {place}: it was changed since it was installed; remove it if you no longer need it"
                )
        if tree.at(STATE).is_dir():
            shutil.rmtree(tree.at(STATE))  # what was learned is of no use to anybody else
        for folder in reversed(tree.folders):
            with contextlib.suppress(OSError):  # not empty: somebody else uses it now
                (base / folder.lstrip("/")).rmdir()
    if root is None and present:
        _systemctl("daemon-reload")
        _systemctl("reset-failed", *present, check=False)
    report.info("uninstalled" if tree.files else "nothing was installed by `apiha install`")


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
