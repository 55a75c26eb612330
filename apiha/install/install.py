"""Installing on a node and leaving it again: units, sandbox, a commented configuration, the kubelet drop-in."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import zipimport
from collections.abc import Iterator, Mapping
from pathlib import Path

from apiha import files, textfile
from apiha.config import PACKAGED, load, template
from apiha.errors import ApihaError, ConfigError, NotPermitted
from apiha.failfast import kernel
from apiha.hosts import HostsFile
from apiha.install import kubelet
from apiha.install.archive import for_interpreter
from apiha.install.tree import File, Link, Tree
from apiha.install.units import (
    DROP_INS,
    KUBELET_HTTP2,
    TEXTFILE,
    UNITS,
    enableable,
    folder_of,
    shipped,
    systemctl,
    textfile_drop_in,
    wanted_by,
)
from apiha.log import Reporter
from apiha.paths import (
    CONFIG_FILE,
    KUBELET_RECORD,
    PACKAGED_PROGRAM,
    PACKAGED_UNIT_DIR,
    PROGRAM,
    STATE_DIR,
    UNIT_DIR,
)
from apiha.preview import Preview

# The sandbox sets ProtectHome=yes and PrivateTmp=yes: services do not see what lies below these.
HIDDEN_FROM_UNITS = ("/home", "/root", "/tmp", "/var/tmp", "/run/user")  # noqa: S108 (nothing is written there)


def install(
    report: Reporter,
    *,
    root: Path | None = None,
    kubelet_http2: bool = False,
    now: bool = False,
    settings: Mapping[str, str] | None = None,
    preview: Preview | None = None,
) -> None:
    """Put the units, a commented configuration and, if asked, the kubelet drop-in on the machine or image at `root`.

    `settings` (key to text, already checked) are written into a new configuration. On a running machine the units
    are enabled by systemctl, and started if `now`; in an image by their links. Program and units that a package brought
    stay as they are. With a `preview` all is shown, and nothing changed. Raises NotPermitted or ApihaError, the latter
    also where a file that install did not write is in the way; nothing is written then.
    """
    _check_root(root)
    with _permissions_explained("install"):
        tree = Tree.recorded(root or Path("/"), preview)
        wanted: dict[Path, File | Link] = {}
        if root is None and packaged():
            program = str(PACKAGED_PROGRAM)
        else:
            program = _add_program(wanted, tree, in_image=root is not None)
        config = tree.at(CONFIG_FILE)
        keep_config = configured(config)
        new_config = not keep_config and (bool(settings) or not os.path.lexists(config))
        if new_config:
            wanted[CONFIG_FILE] = File(template(settings).encode())
        if kubelet_http2:
            wanted[UNIT_DIR / KUBELET_HTTP2] = File(shipped(KUBELET_HTTP2).encode())
        folder, before = _textfile_dir(config, (settings or {}) if new_config else None), _granted(tree)
        if folder is not None:
            wanted[UNIT_DIR / TEXTFILE] = File(textfile_drop_in(folder).encode())
        tree.put(wanted, may_replace=[CONFIG_FILE] if settings else [])
        if folder is None:
            _withdraw(tree, UNIT_DIR / TEXTFILE)
        elif (doubt := _doubt(folder, tree)) is not None:
            report.warning(f"textfile_dir: {folder}: {doubt}")
        if before is not None and before != folder:
            _remove_metrics(before, tree, report)
        if not keep_config:
            words = f"wrote {config}" if new_config else f"kept {config}"
            report.info(words + ("" if settings else ": fill in control_plane and vip"))
        else:
            report.info(f"kept {config}: it was there already")
            if settings:
                report.warning(f"{config} was not changed: {', '.join(settings)} given here are not in it")
        if kubelet_http2:
            report.info(f"wrote {tree.at(UNIT_DIR / KUBELET_HTTP2)}: takes effect when kubelet starts next")
    if root is None:
        systemctl("daemon-reload", preview=preview)
        systemctl("enable", *(["--now"] if now else []), *enableable(), preview=preview)
    report.info(f"installed and enabled {', '.join(UNITS)}; they run {program}")


def _add_program(wanted: dict[Path, File | Link], tree: Tree, *, in_image: bool) -> str:
    """Add the program, units and drop-ins to what is wanted; returns the program's path as the machine will see it."""
    program, archive = _program(tree, in_image=in_image)
    if archive is not None:
        wanted[PROGRAM] = archive
    for unit in UNITS:
        text = shipped(unit).replace(str(PROGRAM), program)
        wanted[UNIT_DIR / unit] = File(text.encode())
        if in_image:
            for target in wanted_by(text):
                wanted[UNIT_DIR / f"{target}.wants" / unit] = Link(UNIT_DIR / unit)
    for drop_in in DROP_INS:
        wanted[UNIT_DIR / drop_in] = File(shipped(drop_in).encode())
    return program


def _textfile_dir(config: Path, settings: Mapping[str, str] | None) -> Path | None:
    """Where metrics go, by these settings or (None) by the file that is there; None for nowhere."""
    try:
        if settings is not None:
            return load(None, {}, settings).textfile_dir
        return load(config, {}, {}, path_required=False).textfile_dir
    except ConfigError:  # which every other command says
        return None


def _granted(tree: Tree) -> Path | None:
    """The folder that an earlier `install` let the units write to; None for none. Raises OSError."""
    drop_in = tree.at(UNIT_DIR / TEXTFILE)
    return folder_of(drop_in.read_text(encoding="utf-8", errors="replace")) if drop_in.is_file() else None


def _doubt(folder: Path, tree: Tree) -> str | None:
    """Why the units may be unable to write metrics there; None if they are not."""
    if any(folder.is_relative_to(hidden) for hidden in HIDDEN_FROM_UNITS):
        return "systemd units cannot see this place (ProtectHome, PrivateTmp)"
    try:
        status = tree.at(folder, follow=True).stat()
    except OSError as error:
        return f"{error.strerror}: no metrics are written until there is a folder that belongs to root"
    write = stat.S_IWUSR if status.st_uid == 0 else stat.S_IWGRP if status.st_gid == 0 else stat.S_IWOTH
    if not stat.S_ISDIR(status.st_mode) or not status.st_mode & write:
        return (
            "not a folder of root's: the units run as root without root's powers, and cannot write there; "
            "`chown root` it, node_exporter only reads it"
        )
    return None


def _remove_metrics(folder: Path, tree: Tree, report: Reporter) -> None:
    """Remove what was written for node_exporter: it would tell of this node for ever. One that stays is named."""
    for path in textfile.written(tree.at(folder, follow=True)):
        if tree.preview is not None:
            tree.preview.command("rm", str(path))
            continue
        try:
            path.unlink()
        except OSError as error:
            report.warning(f"kept {path}: {error.strerror}; remove it, node_exporter still reads it")


def _withdraw(tree: Tree, path: Path) -> None:
    """Remove a file that an earlier run wrote and that is not wanted any more, unless somebody edited it."""
    if str(path) in tree.files and tree.unchanged(str(path)):
        tree.remove(str(path))
        if tree.preview is None:
            tree.forget([path])


def configured(config: Path) -> bool:
    """Whether there is a configuration that somebody wrote. The commented one, as it is shipped, says nothing yet.

    One that cannot be read counts: `load` says why it cannot.
    """
    if not os.path.lexists(config):
        return False
    if config.is_symlink() or not config.is_file():
        return True
    try:
        return config.read_bytes() not in (template().encode(), PACKAGED.encode())
    except OSError:
        return True


def packaged() -> bool:
    """Whether the running program and all units were put where they are by a package of the distribution."""
    running = os.path.abspath(sys.argv[0])
    names = {running, os.path.realpath(running), str(running_archive())}
    return str(PACKAGED_PROGRAM) in names and all((PACKAGED_UNIT_DIR / unit).exists() for unit in UNITS)


def uninstall(
    report: Reporter,
    *,
    root: Path | None = None,
    hosts_file: Path,
    keep_block: bool = False,
    preview: Preview | None = None,
) -> None:
    """Leave the machine as it was before `install` and the first pin. What was edited since is kept, and named.

    With a `preview` all is shown, and nothing changed. Raises NotPermitted or ApihaError.
    """
    _check_root(root)
    with _permissions_explained("uninstall"):
        tree = Tree.recorded(root or Path("/"), preview)
        if root is not None and not keep_block:
            hosts_file = tree.at(hosts_file, follow=True)
        state = tree.at(STATE_DIR, follow=True)
        # All places are worked out before anything is removed: a link that leads out of the image stops it here.
        recorded = {path: tree.at(path) for path in {**tree.files, **tree.pending}}
        folders = [tree.at(folder) for folder in tree.folders]
        # By the configuration and by the drop-in: one of them may have been changed.
        metrics = {f for f in (_textfile_dir(tree.at(CONFIG_FILE), None), _granted(tree)) if f is not None}
        present = [
            unit
            for unit in UNITS
            if tree.at(UNIT_DIR / unit).exists() or (root is None and (PACKAGED_UNIT_DIR / unit).exists())
        ]
        if root is None and present:
            # Before the block is removed: the path unit would put it back.
            systemctl("disable", "--now", *present, preview=preview)
        if not keep_block:
            kubelet.put_back(
                report,
                record=tree.at(KUBELET_RECORD, follow=True),
                place=lambda path: tree.at(path, follow=True),
                restart=lambda: _restart_kubelet(report, root, preview),
                preview=preview,
            )
        if root is None:
            _remove_table(report, preview)
        if not keep_block and hosts_file.exists():
            change = HostsFile(hosts_file, state_dir=state, preview=preview).unpin()
            change.report(report, hosts_file)
            if change.written:
                report.info(
                    f"removed the block from {hosts_file}; clients on this node that name the host need another way"
                )
        for swept in (os.path.realpath(hosts_file), *map(str, recorded.values())) if preview is None else ():
            files.sweep(swept, min_age=0.0)  # nobody else writes any more
        for path, place in recorded.items():
            if tree.unchanged(path):
                tree.remove(path)
            elif os.path.lexists(place):
                report.warning(
                    f"kept {place}: it was changed since it was installed; remove it if you no longer need it"
                )
        for folder in metrics:
            _remove_metrics(folder, tree, report)
        for kept in tree.clear_state():
            report.warning(
                f"kept {kept}: bytes of a hosts file whose writing was interrupted; remove it if you do not need it"
            )
        for folder in reversed(folders) if preview is None else ():
            with contextlib.suppress(OSError):  # not empty: somebody else uses it now
                folder.rmdir()
    if root is None and present:
        systemctl("daemon-reload", preview=preview)
        systemctl("reset-failed", *present, check=False, preview=preview)
    report.info("uninstalled" if recorded else "nothing was installed by `apiha install`")


def _restart_kubelet(report: Reporter, root: Path | None, preview: Preview | None) -> None:
    if root is None:
        try:
            systemctl("restart", "kubelet.service", preview=preview)
        except ApihaError as error:
            report.warning(str(error))


def _remove_table(report: Reporter, preview: Preview | None) -> None:
    """Take the nftables table away if there is one; stopping the unit has done so where the unit was active."""
    try:
        if kernel.remove(preview):
            report.info("removed the nftables table `inet apiha`")
    except kernel.ForeignTable as error:
        report.warning(str(error))
    except (kernel.Unsupported, NotPermitted):
        pass  # where it cannot be removed, it cannot have been loaded


def for_this_python(archive: bytes, *, in_image: bool) -> bytes:
    """The archive as the Python that runs it now starts it best, if it will run on this machine.

    `python3` may be too old where somebody had to write `python3.11 apiha.pyz install`.
    """
    if in_image or not archive.startswith(b"#!") or not sys.executable:
        return archive
    return for_interpreter(archive, sys.executable)


def _check_root(root: Path | None) -> None:
    if root is not None and not root.is_dir():
        raise ApihaError(f"--root {root}: not a folder; expected where the image is mounted")


def _program(tree: Tree, *, in_image: bool) -> tuple[str, File | None]:
    """The absolute path, as the machine will see it, of the program that the units run; what to put there, if so."""
    archive = running_archive()
    if archive is not None:
        if archive == tree.at(PROGRAM).resolve():
            return str(PROGRAM), None
        return str(PROGRAM), File(for_this_python(archive.read_bytes(), in_image=in_image), 0o755)
    program = Path(os.path.abspath(sys.argv[0]))
    if program.name == "__main__.py" or not os.access(program, os.X_OK):
        program = Path(sys.executable).with_name("apiha")
    if in_image and program.is_relative_to(tree.root.resolve()):
        program = Path("/") / program.relative_to(tree.root.resolve())
    if not os.access(tree.at(program, follow=True), os.X_OK):
        raise ApihaError(f"{program} is not in the image: install with apiha.pyz, which brings itself along")
    if not in_image and any(program.is_relative_to(hidden) for hidden in HIDDEN_FROM_UNITS):
        raise ApihaError(
            f"{program}: systemd units cannot see this place (ProtectHome, PrivateTmp); "
            "install apiha below /opt or /usr/local, or use apiha.pyz"
        )
    return str(program), None


def running_archive() -> Path | None:
    """The apiha.pyz that this process runs from, if it does."""
    loader = getattr(sys.modules["apiha"], "__loader__", None)
    return Path(loader.archive).resolve() if isinstance(loader, zipimport.zipimporter) else None


@contextlib.contextmanager
def _permissions_explained(what: str) -> Iterator[None]:
    """Errors of the file system as one line each."""
    try:
        yield
    except PermissionError as error:
        raise NotPermitted(f"cannot {what}: {error.filename}: {error.strerror}; run it as root") from None
    except OSError as error:
        raise ApihaError(f"cannot {what}: {error.filename}: {error.strerror}") from None
