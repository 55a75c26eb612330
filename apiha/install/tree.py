"""The files of an installation, on this machine or in an image, and the record of which of them are ours.

What is to be written is first recorded with its checksum, so that uninstalling removes exactly that, and nothing that
somebody changed since. What was there before is not overwritten. Paths are absolute, as the machine itself sees them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from apiha import files
from apiha.errors import ApihaError
from apiha.paths import INSTALL_RECORD, STATE_DIR
from apiha.preview import Preview

# How the files end that a killed write of the hosts file in place leaves (apiha.hosts.journal).
_BYTES_OF_BEFORE = (".apiha-saved", ".apiha-backup", ".apiha-intended")


@dataclass(frozen=True, slots=True)
class File:
    """A file that is to be there."""

    data: bytes
    mode: int = 0o644

    @property
    def mark(self) -> str:
        """What the record says of it."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Link:
    """A symlink that is to be there."""

    target: Path

    @property
    def mark(self) -> str:
        """What the record says of it."""
        return f"-> {self.target}"


@dataclass
class Tree:
    """Files below `root`, and a record of which of them are ours."""

    root: Path
    files: dict[str, str] = field(default_factory=dict)  # path to sha256, or to "-> TARGET" for a link
    folders: list[str] = field(default_factory=list)  # made by us, outermost first
    # What a run is about to write, kept on the disk meanwhile: a kill leaves nothing that nobody knows.
    pending: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str] = field(
        default_factory=dict
    )  # path to the text of others that ours took the place of
    preview: Preview | None = None  # takes what would be written, and nothing is

    @classmethod
    def recorded(cls, root: Path, preview: Preview | None = None) -> Tree:
        """The tree with what the record on its disk says; raises ApihaError if that is damaged, OSError."""
        tree = cls(root, preview=preview)
        record = tree.at(INSTALL_RECORD, follow=True)
        try:
            document = json.loads(record.read_text(encoding="utf-8"))
            tree.files = dict(document["files"])
            tree.folders = list(document["folders"])
            tree.pending = dict(document.get("pending", {}))
            tree.replaced = dict(document.get("replaced", {}))
            for path in (*tree.files, *tree.pending, *tree.folders, *tree.replaced):
                if not path.startswith("/") or ".." in path.split("/"):
                    raise ValueError(f"{path!r} is not a path that install writes")
        except FileNotFoundError:
            return tree
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ApihaError(
                f"{record}: damaged record of the installation ({error}); remove it to start anew"
            ) from None
        return tree

    def at(self, path: Path | str, *, follow: bool = False) -> Path:
        """Where a path of the machine or image lies; the only way from one to the other.

        Raises ApihaError if `..` or a symlink, as seen from outside of the image, leads out of it. A symlink at the
        path itself only counts with `follow`; without it the path must be used in ways that do not follow it.
        """
        relative = Path(str(path).lstrip("/"))
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

    def put(self, wanted: Mapping[Path, File | Link], *, may_replace: Collection[Path] = ()) -> None:
        """Write all of it, or nothing if something that is not ours is in the way (ApihaError). Raises OSError.

        What lies at a path of `may_replace` is not in the way: its text is kept, and can be given back.
        """
        self.at(STATE_DIR, follow=True)
        self._settle()
        ours = {
            path: entry
            for path, entry in wanted.items()
            if path in may_replace or not self._foreign(path, entry)
        }
        for path in may_replace:
            if self.at(path).is_file() and str(path) not in self.files:
                self.replaced[str(path)] = self.at(path).read_text(encoding="utf-8")
        self.pending = {str(path): entry.mark for path, entry in ours.items()}
        for path in (STATE_DIR, *(path.parent for path in ours)):
            self.folders += [
                str(folder)
                for folder in _with_parents(path)
                if not self.at(folder).exists() and str(folder) not in self.folders
            ]
        if self.preview is not None:
            self._show(ours, self.preview)
            return
        self._save()
        for path, entry in ours.items():
            self._make_folder(path.parent)
            if isinstance(entry, File):
                self._replace(path, entry)
            elif self._mark(path) != entry.mark:
                self.at(path).unlink(missing_ok=True)
                self.at(path).symlink_to(entry.target)
        self.files |= self.pending
        self.pending = {}
        self._save()

    def remove(self, path: str) -> None:
        """Remove a recorded file or link, or show that; what it took the place of comes back. Raises OSError."""
        place = self.at(path)
        before = File(self.replaced[path].encode()) if path in self.replaced else None
        if self.preview is None and before is not None:
            self._replace(Path(path), before)
        elif self.preview is None:
            place.unlink()
        elif place.is_symlink():
            self.preview.command("rm", str(place))
        else:
            self.preview.file(place, place.read_bytes(), None if before is None else before.data)

    def unchanged(self, path: str) -> bool:
        """Whether what lies at a recorded path is still what was put there."""
        return self._mark(path) in {self.files.get(path), self.pending.get(path)} - {None}

    def forget(self, paths: Iterable[Path]) -> None:
        """Take these out of the record; somebody else looks after them now. Raises OSError."""
        for path in paths:
            self.files.pop(str(path), None)
            self.pending.pop(str(path), None)
        self._save()

    def clear_state(self) -> list[Path]:
        """Remove what apiha keeps; returns what a killed write left of the hosts file's bytes: those stay."""
        folder = self.at(STATE_DIR, follow=True)
        kept = []
        entries = list(folder.iterdir()) if folder.is_dir() else []
        # The record goes last: a run that is killed here can be repeated.
        for entry in sorted(entries, key=lambda entry: entry.name == INSTALL_RECORD.name):
            if entry.name.endswith(_BYTES_OF_BEFORE):
                kept.append(entry)
            elif self.preview is not None:
                self.preview.command("rm", "-r", str(entry))
            elif entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        if not kept and not folder.is_symlink() and self.preview is None:
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
        return kept

    def _show(self, ours: Mapping[Path, File | Link], preview: Preview) -> None:
        """What `put` would write, the record included."""
        self.files |= self.pending
        self.pending = {}
        for path, entry in (*ours.items(), (INSTALL_RECORD, self._record())):
            place = self.at(path)
            if isinstance(entry, File):
                preview.file(place, place.read_bytes() if place.is_file() else None, entry.data)
            elif self._mark(path) != entry.mark:
                preview.link(place, entry.target)

    def _record(self) -> File:
        document: dict[str, object] = {"files": self.files, "folders": self.folders, "pending": self.pending}
        if self.replaced:
            document["replaced"] = self.replaced
        return File(f"{json.dumps(document, indent=1)}\n".encode())

    def _save(self) -> None:
        self._make_folder(STATE_DIR)
        self._replace(INSTALL_RECORD, self._record())

    def _mark(self, path: Path | str) -> str | None:
        """What lies at a path, as the record would say it; "" for what install never makes, None for nothing."""
        place = self.at(path)
        if place.is_symlink():
            return f"-> {os.readlink(place)}"
        if place.is_file():
            return hashlib.sha256(place.read_bytes()).hexdigest()
        return "" if place.exists() else None

    def _settle(self) -> None:
        """Sort out how far an earlier run came that was killed."""
        for path, mark in self.pending.items():
            if self._mark(path) == mark:
                self.files[path] = mark
        self.pending = {}

    def _foreign(self, path: Path, wanted: File | Link) -> bool:
        """Whether exactly that is there already, and not from us. Raises ApihaError if something else is."""
        there = self._mark(path)
        if there is None or str(path) in self.files:
            return False
        if there != wanted.mark:
            raise ApihaError(
                f"{self.at(path)} is there already, and not from `apiha install`: nothing was installed; "
                "move it away, then install again"
            )
        return True

    def _make_folder(self, path: Path) -> None:
        for folder in _with_parents(path):
            place = self.at(folder)
            if not place.exists():
                place.mkdir(mode=0o755)

    def _replace(self, path: Path, file: File) -> None:
        """Replace a file as a whole: a reader sees the old one or the new one."""
        place = self.at(path)
        try:
            status = place.lstat() if os.path.lexists(place) else None
            files.replace(str(place), file.data, status)
            place.chmod(file.mode)
        except files.ChangedMeanwhileError:
            raise ApihaError(f"{place}: another program wrote it just now; run it again") from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(place)) from None  # a full disk names no file


def _with_parents(path: Path) -> list[Path]:
    """The folders on the way to a path, and itself, outermost first, without the root."""
    return [folder for folder in (*reversed(path.parents), path) if folder != Path("/")]
