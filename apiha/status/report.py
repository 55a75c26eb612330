"""What `apiha report` puts together for an issue: everything that somebody who helps asks for, and no secret."""

from __future__ import annotations

import gzip
import io
import json
import os
import platform
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from apiha import __version__
from apiha.config import Config
from apiha.errors import ApihaError, ConfigError
from apiha.failfast import kernel
from apiha.hosts import HostsFile
from apiha.install.units import UNITS
from apiha.settings import SETTINGS
from apiha.status.mask import foreign_words, hosts_text, masked
from apiha.status.model import Status
from apiha.status.show import status_json, status_text

FOLDER = "apiha-report"  # in the archive
MISSING = "missing: "  # so begins what stands in the place of a piece
HOSTS_PIECE = "hosts.txt"
JOURNAL_LINES = 5000  # of this boot; a node that is well writes some ten a day
_JOURNAL_TIMEOUT = 30.0  # seconds; a journal on a slow disk takes its time


@dataclass(frozen=True)
class Piece:
    """A file of the report: its name, what it is in a few words, and its text, masked already."""

    name: str
    what: str
    text: str

    @property
    def data(self) -> bytes:
        """As it is in the archive."""
        return (self.text.rstrip("\n") + "\n").encode("utf-8", "backslashreplace")


def collect(status: Status, unusable: ConfigError | None, hosts: HostsFile) -> list[Piece]:
    """All pieces. One that cannot be read says why instead; nothing is raised."""
    host = status.seen.config.host
    try:
        data = hosts.read()
    except ApihaError as error:
        data, hosts_piece = b"", f"{MISSING}{error}"
    else:
        hosts_piece = hosts_text(data, host)
    lines, names = foreign_words(data, host)
    in_json = (json.dumps(line, ensure_ascii=False)[1:-1] for line in lines)
    lines += [line for line in in_json if "\\" in line]  # the others stand there as they are
    parts: list[tuple[str, str, Callable[[], str]]] = [
        ("about.txt", "versions of apiha, Python, the distribution, the kernel", _about),
        ("status.txt", "what `apiha status` says", lambda: status_text(status)),
        (
            "status.json",
            "the same for programs",
            lambda: json.dumps(status_json(status), indent=2, ensure_ascii=False),
        ),
        (
            "config.txt",
            "the settings in use; files are named, not read",
            lambda: str(unusable) if unusable is not None else settings_text(status.seen.config),
        ),
        ("journal.txt", "what apiha's units said since the boot", _journal),
        ("nftables.txt", "apiha's nftables tables, no others", _tables),
        (HOSTS_PIECE, "the hosts file; of lines outside the block only their kind", lambda: hosts_piece),
    ]
    # The hosts file has none of these lines any more; to look for 100,000 in as many would take a minute.
    quoted = {name: lines for name, _, _ in parts if name != HOSTS_PIECE}
    return [Piece(name, what, masked(_text(get), quoted.get(name, []), names)) for name, what, get in parts]


def settings_text(config: Config) -> str:
    """The settings that differ from the defaults. Comments and unknown keys of the file are not in it."""
    defaults = Config()
    lines = []
    for setting in SETTINGS:
        value = getattr(config, setting.key)
        if value != getattr(defaults, setting.key):
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            lines.append(f"{setting.key}: {shown}")
    return "\n".join(lines) or "nothing is set"


def archive(pieces: list[Piece], now: datetime) -> bytes:
    """The pieces as a tar file, packed with gzip."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w") as tar,
    ):
        for piece in pieces:
            member = tarfile.TarInfo(f"{FOLDER}/{piece.name}")
            member.size, member.mtime, member.mode = len(piece.data), int(now.timestamp()), 0o600
            tar.addfile(member, io.BytesIO(piece.data))
    return packed.getvalue()


def require_new(path: Path) -> None:
    """Raises ApihaError if something is there already: nothing is overwritten."""
    if os.path.lexists(path):
        raise _there(path)


def write(path: Path, data: bytes) -> None:
    """Write a new file for this user alone, or none. Raises ApihaError; never overwrites one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
        except OSError:
            path.unlink()
            raise
    except FileExistsError:
        raise _there(path) from None
    except OSError as error:
        raise ApihaError(
            f"{path}: cannot write the report: {error.strerror or error}; give another FILE"
        ) from None


def _there(path: Path) -> ApihaError:
    return ApihaError(f"{path} is there already: give another FILE")


def _text(get: Callable[[], str]) -> str:
    try:
        return get()
    except FileNotFoundError as error:
        return f"{MISSING}{error.filename} is not there"
    except (ApihaError, OSError, subprocess.SubprocessError, ValueError) as error:
        return f"{MISSING}{error}"


def _about() -> str:
    return "\n".join(_facts())


def _facts() -> Iterator[str]:
    yield f"apiha {__version__}"
    yield f"Python {platform.python_version()} ({platform.python_implementation()}), {platform.machine()}"
    try:
        yield platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        yield "a distribution without /etc/os-release"
    yield f"{platform.system()} {platform.release()}"
    yield f"run by {'root' if os.geteuid() == 0 else 'a user who is not root: parts are missing'}"


def _journal() -> str:
    units = [word for unit in UNITS if unit.endswith(".service") for word in ("-u", unit)]
    options = ["-b", "--no-pager", "--no-hostname", "-o", "short-iso", "-n", str(JOURNAL_LINES)]
    command = ["journalctl", *options, *units]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=_JOURNAL_TIMEOUT, check=False
    )
    said = " ".join(done.stderr.split())
    if done.returncode != 0:
        raise ApihaError(said or f"journalctl ended with exit code {done.returncode}")
    if all(line.startswith("-- ") for line in done.stdout.splitlines()):  # "-- No entries --"
        return f"the units have said nothing since the boot{f' ({said})' if said else ''}"
    return done.stdout


def _tables() -> str:
    return kernel.text() or "not loaded"
