"""The hosts file on a real disk: what is kept, what is refused, and how."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from apiha import files
from apiha.errors import HostsConflict, HostsFileError, NotPermitted
from apiha.hosts import BlockChanged, Change, HostsFile, current, splice
from apiha.hosts.rivalry import FIGHT
from apiha.log import Reporter

HOST = "apiserver.cluster.local"
ORIGINAL = b"127.0.0.1\tlocalhost\r\n\xff latin\n10.0.0.7 db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A hosts file in a folder of its own."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "hosts").write_bytes(ORIGINAL)
    return folder / "hosts"


@pytest.fixture
def hosts(path: Path, tmp_path: Path) -> HostsFile:
    return HostsFile(path, state_dir=tmp_path / "state")


def identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def beside(path: Path) -> list[str]:
    """Whatever is in the file's folder besides it."""
    return sorted(name for name in os.listdir(path.parent) if name != path.name)


def told(change: Change, path: Path) -> list[str]:
    """The warnings that a write is reported with."""
    stream = io.StringIO()
    change.report(Reporter(stream), path)
    return [line.removeprefix("apiha: warning: ") for line in stream.getvalue().splitlines()]


def test_pin_swap_unpin(hosts: HostsFile, path: Path) -> None:
    """The block follows, and in the end the very first bytes are there and nothing else."""
    assert hosts.pin(HOST, ["10.0.0.11", "10.0.0.12"]).written
    assert current(hosts.read(), HOST).addresses == ("10.0.0.11", "10.0.0.12")
    assert hosts.pin(HOST, ["10.96.0.100", "10.0.0.11"]).written
    assert current(hosts.read(), HOST).addresses == ("10.96.0.100", "10.0.0.11")
    assert hosts.unpin().written
    assert path.read_bytes() == ORIGINAL
    assert beside(path) == []


def test_nothing_is_written_without_change(hosts: HostsFile, path: Path) -> None:
    """The same inode with the same times, so that nothing that watches the file wakes up."""
    hosts.pin(HOST, ["10.0.0.11"])
    before = identity(path)
    assert not hosts.pin(HOST, ["10.0.0.11"]).written
    assert identity(path) == before
    hosts.unpin()
    before = identity(path)
    assert not hosts.unpin().written
    assert identity(path) == before


def test_a_reader_keeps_the_old_file_whole(hosts: HostsFile, path: Path) -> None:
    """Who has the file open reads the old bytes to their end: the new ones are another file."""
    with path.open("rb") as reader:
        hosts.pin(HOST, ["10.0.0.11"])
        assert reader.read() == ORIGINAL


def test_a_refused_pin_writes_nothing(hosts: HostsFile, path: Path) -> None:
    """The conflict names file and line; adopt then works, warns, and unpin undoes it."""
    path.write_bytes(ORIGINAL + b"\n10.0.0.9 " + HOST.encode() + b" www\n")
    before = identity(path)
    with pytest.raises(HostsConflict, match=f"^{path}:4: "):
        hosts.pin(HOST, ["10.0.0.11"])
    assert identity(path) == before
    change = hosts.pin(HOST, ["10.0.0.11"], "adopt")
    assert [line.number for line in change.adopted] == [4]
    assert told(change, path) == [f"{path}:4: commented out until `apiha unpin`: 10.0.0.9 {HOST} www"]
    hosts.unpin()
    assert path.read_bytes() == ORIGINAL + b"\n10.0.0.9 " + HOST.encode() + b" www\n"


def test_lines_dropped_from_the_block_are_in_the_log(hosts: HostsFile, path: Path) -> None:
    """Who wrote into the block learns from the log what became of it."""
    hosts.pin(HOST, ["10.0.0.11"])
    path.write_bytes(path.read_bytes().replace(b"# END", b"10.0.0.5 mine\n# END"))
    assert told(hosts.pin(HOST, ["10.0.0.12"]), path) == [
        f"{path}:6: dropped from the block, it was not apiha's: 10.0.0.5 mine"
    ]


def test_a_missing_file_is_created(hosts: HostsFile, path: Path) -> None:
    """Readable for all, whatever the umask: every program on the node resolves names with it."""
    path.unlink()
    assert hosts.read() == b""
    assert not hosts.unpin().written
    assert not path.exists()
    umask = os.umask(0o077)
    try:
        assert hosts.pin(HOST, ["10.0.0.11"]).written
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_mode_is_kept(hosts: HostsFile, path: Path) -> None:
    """Also one that the umask would not give."""
    path.chmod(0o666)
    hosts.pin(HOST, ["10.0.0.11"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away: run the tests as root")
def test_the_owner_is_kept(hosts: HostsFile, path: Path) -> None:
    """User and group are those of before."""
    os.chown(path, 1234, 4321)
    hosts.pin(HOST, ["10.0.0.11"])
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_extended_attributes_are_kept(hosts: HostsFile, path: Path) -> None:
    """Users' attributes, POSIX ACLs and (as root) security labels follow the name to the new file."""
    try:
        os.setxattr(path, "user.apiha-test", b"\0value")
    except OSError as error:
        pytest.skip(
            f"no extended attributes in {path.parent} ({error.strerror}): set TMPDIR to an ext4 or xfs folder"
        )
    # acl(5), as in linux/posix_acl_xattr.h: version 2, then (tag, permissions, id) for each entry.
    everyone = 0xFFFFFFFF
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in [(1, 6, everyone), (2, 4, 1234), (4, 4, everyone), (16, 4, everyone), (32, 4, everyone)]
    )
    os.setxattr(path, "system.posix_acl_access", acl)
    if os.geteuid() == 0:
        os.setxattr(path, "security.apiha-test", b"label")
        os.setxattr(path, "trusted.apiha-test", b"trusted")
    before = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    mode, inode = path.stat().st_mode, path.stat().st_ino
    hosts.pin(HOST, ["10.0.0.11"])
    assert path.stat().st_ino != inode
    assert path.stat().st_mode == mode
    assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == before


def test_the_folders_default_acl_does_not_change_the_file(hosts: HostsFile, path: Path) -> None:
    """A file without an ACL gets none through being replaced."""
    everyone = 0xFFFFFFFF
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in [(1, 7, everyone), (2, 7, 1234), (4, 5, everyone), (16, 7, everyone), (32, 0, everyone)]
    )
    try:
        os.setxattr(path.parent, "system.posix_acl_default", acl)
    except OSError as error:
        pytest.skip(f"no ACLs in {path.parent} ({error.strerror}): set TMPDIR to an ext4 or xfs folder")
    path.chmod(0o644)
    hosts.pin(HOST, ["10.0.0.11"])
    assert "system.posix_acl_access" not in os.listxattr(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_symlink_is_followed(path: Path, tmp_path: Path) -> None:
    """The file that it leads to is written, and the link stays a link."""
    middle, link = tmp_path / "middle", tmp_path / "link"
    middle.symlink_to("etc/hosts")
    link.symlink_to(middle)
    hosts = HostsFile(link, state_dir=tmp_path / "state")
    assert hosts.pin(HOST, ["10.0.0.11"]).written
    assert link.is_symlink()
    assert middle.is_symlink()
    assert current(path.read_bytes(), HOST).addresses == ("10.0.0.11",)
    hosts.unpin()
    assert path.read_bytes() == ORIGINAL


def test_a_dangling_symlink_gets_its_file(path: Path, tmp_path: Path) -> None:
    """The file is created where the link leads to."""
    path.unlink()
    link = tmp_path / "link"
    link.symlink_to(path)
    HostsFile(link, state_dir=tmp_path / "state").pin(HOST, ["10.0.0.11"])
    assert link.is_symlink()
    assert current(path.read_bytes(), HOST).present


def make_folder(path: Path) -> None:
    path.mkdir()


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(65 * 1024 * 1024)


def make_below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_folder, "is a folder, a hosts file was expected"),
        (os.mkfifo, "is not a regular file"),
        (make_huge, "is too large"),
        (make_loop, "cannot be opened or created"),
        (make_below_a_file, "cannot be opened or created"),
        (lambda path: path.parent.rmdir(), "create its folder"),
        (lambda path: path.symlink_to("/dev/null"), "is not a regular file"),
    ],
)
def test_what_is_no_hosts_file_is_refused(make: object, words: str, path: Path, tmp_path: Path) -> None:
    """One line says what is there instead, and nothing is touched or waited for."""
    path.unlink()
    assert callable(make)
    make(path)
    with pytest.raises(HostsFileError) as caught:
        HostsFile(path, state_dir=tmp_path / "state").pin(HOST, ["10.0.0.11"])
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_address_that_cannot_be_written_touches_nothing(hosts: HostsFile, path: Path) -> None:
    """It fails before the lock is taken."""
    before = identity(path)
    with pytest.raises(HostsFileError, match="not a valid line"):
        hosts.pin(HOST, ["fe80::1%eth0"])
    assert identity(path) == before


def test_waiting_for_the_lock_has_an_end(path: Path, tmp_path: Path) -> None:
    """The error names the file, the process that holds the lock, and what to do. Time is the test's own."""
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    hosts = HostsFile(path, state_dir=tmp_path / "state", clock=lambda: now[0], sleep=sleep)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(flush=True); input()",
            str(path.parent),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(HostsFileError) as caught:
            hosts.pin(HOST, ["10.0.0.11"], lock_timeout=10)
        assert path.read_bytes() == ORIGINAL
        assert hosts.read() == ORIGINAL  # a reader needs no lock
        assert f"{path.parent} is locked by " in str(caught.value)
        assert "then run again" in str(caught.value)
        if f" {holder.pid} " in Path("/proc/locks").read_text():
            assert f"process {holder.pid} (" in str(caught.value)
        holder.communicate(b"\n")
    assert 110 <= now[0] < 111
    assert hosts.pin(HOST, ["10.0.0.11"]).written


def test_the_lock_leaves_no_file(hosts: HostsFile, path: Path) -> None:
    """It is the folder itself that is locked, and it is free again afterwards, also after an error."""
    hosts.pin(HOST, ["10.0.0.11"])
    with pytest.raises(BlockChanged):
        hosts.pin(HOST, ["10.0.0.12"], expected=["10.0.0.13"])
    assert beside(path) == []
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(folder)


def another_writes(monkeypatch: pytest.MonkeyPatch, write: Callable[[], object]) -> None:
    """Let another program write the file each time after apiha has read it and before apiha replaces it."""
    replace = files.replace

    def later(*arguments: Any) -> None:
        write()
        replace(*arguments)

    monkeypatch.setattr(files, "replace", later)


def test_a_change_by_another_program_meanwhile_is_not_lost(
    hosts: HostsFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor takes no lock: if the file is another one at the rename, everything starts anew from it."""
    others = [b"10.0.0.2 second\n", b"10.0.0.1 first\n"]
    another_writes(monkeypatch, lambda: others and path.write_bytes(path.read_bytes() + others.pop()))
    path.write_bytes(b"")
    assert hosts.pin(HOST, ["10.0.0.11"]).written
    assert path.read_bytes().startswith(b"10.0.0.1 first\n10.0.0.2 second\n# BEGIN apiha")
    assert beside(path) == []


def test_a_program_that_never_stops_writing_is_an_error(
    hosts: HostsFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is an end to starting anew, and it leaves that program's bytes."""
    another_writes(monkeypatch, lambda: path.write_bytes(path.read_bytes() + b"#"))
    with pytest.raises(HostsFileError, match="keeps being changed by another program"):
        hosts.pin(HOST, ["10.0.0.11"])
    assert path.read_bytes().startswith(ORIGINAL + b"#")
    assert b"BEGIN" not in path.read_bytes()
    assert beside(path) == []


def test_what_was_decided_from_a_block_is_written_over_that_block_only(hosts: HostsFile, path: Path) -> None:
    """Somebody who decided from an older block is told what it says now, and nothing is written."""
    hosts.pin(HOST, ["10.0.0.11"], expected=[])
    hosts.pin(HOST, ["10.96.0.100", "10.0.0.11"], expected=["10.0.0.11"])
    before = identity(path)
    with pytest.raises(BlockChanged, match="another run changed the block meanwhile") as caught:
        hosts.pin(HOST, ["10.0.0.12"], expected=["10.0.0.11"])
    assert caught.value.addresses == ("10.96.0.100", "10.0.0.11")
    assert identity(path) == before
    hosts.unpin()
    with pytest.raises(BlockChanged):
        hosts.pin(HOST, ["10.0.0.12"], expected=["10.0.0.11"])


def test_a_block_that_changes_right_before_the_rename_is_noticed(
    hosts: HostsFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that takes no lock may put another block there: what was decided from the old one is not written."""
    hosts.pin(HOST, ["10.0.0.11"])
    another_writes(
        monkeypatch, lambda: path.write_bytes(path.read_bytes().replace(b"10.0.0.11", b"10.0.0.13"))
    )
    with pytest.raises(BlockChanged):
        hosts.pin(HOST, ["10.0.0.12"], expected=["10.0.0.11"])
    assert current(hosts.read(), HOST).addresses == ("10.0.0.13",)


def in_the_window(monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], object]) -> None:
    """Let another program act after apiha has looked at the file for the last time, right before the exchange.

    The first act comes before the first exchange, the second one before the second, and so on.
    """
    exchange, remaining = files.exchange, list(acts)

    def later(one: str, other: str) -> None:
        if remaining:
            remaining.pop(0)()
        exchange(one, other)

    monkeypatch.setattr(files, "exchange", later)


def renamed_over(path: Path, data: bytes) -> None:
    path.with_name("new").write_bytes(data)
    path.with_name("new").rename(path)


def test_a_line_appended_in_the_very_last_moment_is_not_lost(
    hosts: HostsFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`echo >>` between the last look and the exchange: what was taken out is looked at, and goes back in."""
    in_the_window(monkeypatch, lambda: path.write_bytes(path.read_bytes() + b"\n10.0.0.1 late\n"))
    assert hosts.pin(HOST, ["10.0.0.11"]).written
    assert path.read_bytes().startswith(ORIGINAL + b"\n10.0.0.1 late\n# BEGIN apiha")
    assert beside(path) == []


def test_a_change_that_time_and_size_do_not_show_is_not_lost(
    hosts: HostsFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other bytes of the same length with the old time of modification, as rsync --times writes them."""
    status = path.stat()

    def change() -> None:
        path.write_bytes(ORIGINAL.replace(b"db", b"DB"))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    in_the_window(monkeypatch, change)
    assert hosts.pin(HOST, ["10.0.0.11"]).written
    assert path.read_bytes().startswith(ORIGINAL.replace(b"db", b"DB") + b"\n# BEGIN apiha")


def test_a_file_renamed_over_it_in_the_very_last_moment_is_not_lost(
    hosts: HostsFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As editors write: the file that was exchanged is another one, and the block is put into that."""
    in_the_window(monkeypatch, lambda: renamed_over(path, b"10.0.0.1 other\n"))
    assert hosts.pin(HOST, ["10.0.0.11"]).written
    assert path.read_bytes().startswith(b"10.0.0.1 other\n# BEGIN apiha")
    assert beside(path) == []


def test_a_second_file_renamed_over_it_while_the_first_is_put_back(
    hosts: HostsFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest one stays."""
    in_the_window(
        monkeypatch,
        lambda: renamed_over(path, b"10.0.0.1 first\n"),
        lambda: renamed_over(path, b"10.0.0.2 second\n"),
    )
    assert hosts.pin(HOST, ["10.0.0.11"]).written
    assert path.read_bytes().startswith(b"10.0.0.2 second\n# BEGIN apiha")
    assert beside(path) == []


def test_a_file_that_is_deleted_or_made_in_the_very_last_moment(
    hosts: HostsFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted: it is made anew with the block alone. Made: the block is put into it."""
    in_the_window(monkeypatch, path.unlink)
    assert hosts.pin(HOST, ["10.0.0.11"]).written
    assert path.read_bytes().startswith(b"# BEGIN apiha")
    path.unlink()
    rename_new = files.rename_new

    def later(one: str, other: str) -> None:
        monkeypatch.setattr(files, "rename_new", rename_new)
        path.write_bytes(b"10.0.0.1 made\n")
        rename_new(one, other)

    monkeypatch.setattr(files, "rename_new", later)
    assert hosts.pin(HOST, ["10.0.0.11"]).written
    assert path.read_bytes().startswith(b"10.0.0.1 made\n# BEGIN apiha")
    assert beside(path) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_without_exchange_a_rename_does(
    code: int, hosts: HostsFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems and kernels that cannot exchange two files, and a sandbox that forbids it, lose no pin."""

    def refused(_one: str, _other: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "exchange", refused)
    monkeypatch.setattr(files, "rename_new", refused)
    assert hosts.pin(HOST, ["10.0.0.11"]).written
    hosts.unpin()
    assert path.read_bytes() == ORIGINAL
    path.unlink()
    assert hosts.pin(HOST, ["10.0.0.11"]).written
    assert beside(path) == []


def test_two_programs_that_fight_are_said_once(path: Path, tmp_path: Path) -> None:
    """A program that writes the file without the block, each time that apiha put it in: counted, told, slowed down."""
    state = tmp_path / "state"
    state.mkdir()
    now = [time.time()]
    hosts = HostsFile(path, state_dir=state, now=lambda: now[0])
    said = []
    for number in range(FIGHT + 5):
        assert hosts.rivalry().pause == (0.0 if number <= FIGHT else 2.0 ** (number - FIGHT - 1))
        said += told(hosts.pin(HOST, ["10.0.0.11"]), path)
        path.write_bytes(ORIGINAL)
        now[0] += 2.0
    words = (
        f"another program changed the block {FIGHT} times in the last hour, apiha put it back {FIGHT} times"
    )
    assert said == [f"{path}: {words}: find that program; passes wait up to 30 s from now on"]
    assert len(hosts.rivalry().theirs) == FIGHT + 4
    hosts.unpin()
    now[0] += 3600.0
    assert (hosts.rivalry().theirs, hosts.rivalry().pause) == ((), 0.0)


def test_a_line_that_comes_back_is_a_fight_too(path: Path, tmp_path: Path) -> None:
    """The block stays as it is, and the same foreign line is appended each time."""
    state = tmp_path / "state"
    state.mkdir()
    hosts = HostsFile(path, state_dir=state)
    for _ in range(FIGHT + 1):
        path.write_bytes(path.read_bytes() + b"\n10.0.0.9 " + HOST.encode() + b"\n")
        hosts.pin(HOST, ["10.0.0.11"], "adopt")
    assert hosts.rivalry().fighting


def test_a_program_that_writes_faster_than_apiha_counts(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wins a round that apiha never came to write in."""
    state = tmp_path / "state"
    state.mkdir()
    hosts = HostsFile(path, state_dir=state)
    another_writes(monkeypatch, lambda: path.write_bytes(path.read_bytes() + b"#"))
    with pytest.raises(HostsFileError, match="keeps being changed"):
        hosts.pin(HOST, ["10.0.0.11"])
    assert (len(hosts.rivalry().theirs), len(hosts.rivalry().ours)) == (1, 0)


def test_a_young_temporary_file_is_nobodys_leftover(path: Path, tmp_path: Path) -> None:
    """A run that locks something else (another state directory) may be writing it right now: a minute is waited."""
    young = path.with_name(".hosts.apiha-0123abcd")
    young.write_bytes(b"half")
    HostsFile(path, state_dir=tmp_path / "state", now=lambda: time.time() + 50).pin(HOST, ["10.0.0.11"])
    assert young.exists()
    HostsFile(path, state_dir=tmp_path / "state", now=lambda: time.time() + 70).pin(HOST, ["10.0.0.12"])
    assert not young.exists()


def test_a_clock_that_was_set_back_keeps_no_leftover(path: Path, tmp_path: Path) -> None:
    """A temporary file from the future is none that somebody writes now."""
    path.with_name(".hosts.apiha-0123abcd").write_bytes(b"half")
    HostsFile(path, state_dir=tmp_path / "state", now=lambda: time.time() - 3600).pin(HOST, ["10.0.0.11"])
    assert beside(path) == []


def test_a_file_that_apiha_made_goes_with_the_block(hosts: HostsFile, path: Path) -> None:
    """Where there was no hosts file there is none after unpin, swapped meanwhile or not."""
    path.unlink()
    hosts.pin(HOST, ["10.0.0.11"])
    hosts.pin(HOST, ["10.96.0.100", "10.0.0.11"])
    assert hosts.unpin().written
    assert not path.exists()
    assert beside(path) == []


def test_a_file_that_apiha_made_stays_with_the_lines_of_others(hosts: HostsFile, path: Path) -> None:
    """Whoever wrote into it since keeps the file."""
    path.unlink()
    hosts.pin(HOST, ["10.0.0.11"])
    path.write_bytes(path.read_bytes() + b"10.0.0.1 mine\n")
    hosts.unpin()
    assert path.read_bytes() == b"10.0.0.1 mine\n"
    path.write_bytes(b"")
    hosts.pin(HOST, ["10.0.0.11"])
    hosts.unpin()
    assert path.read_bytes() == b""


def test_leftovers_of_killed_runs_are_swept(hosts: HostsFile, path: Path) -> None:
    """Temporary files of apiha go, files of others stay."""
    for name in (".hosts.apiha-0123abcd", ".hosts.apiha-backup.apiha-0123abcd", "hosts.apiha-intended"):
        (path.parent / name).write_bytes(b"half")
    for name in (".hosts.apiha-notes", ".hosts.swp", ".hosts.apiha-0123abcde", "xhosts.apiha-0123abcd"):
        (path.parent / name).write_bytes(b"mine")
    HostsFile(path, state_dir=hosts.state_dir, now=lambda: time.time() + 61).pin(HOST, ["10.0.0.11"])
    assert beside(path) == sorted(
        [".hosts.apiha-notes", ".hosts.swp", ".hosts.apiha-0123abcde", "xhosts.apiha-0123abcd"]
    )


@pytest.mark.parametrize(
    ("found", "restored"),
    [(b"AAAAold old\n", True), (b"old old old\n", False), (b"AAAAAAAAA\n", False)],
)
def test_a_backup_settles_a_torn_file(found: bytes, restored: bool, hosts: HostsFile, path: Path) -> None:
    """A half-written file gets its bytes of before; one that is whole is left, and the backup goes."""
    path.write_bytes(found)
    path.with_name("hosts.apiha-backup").write_bytes(b"old old old\n")
    path.with_name("hosts.apiha-intended").write_bytes(b"AAAAAAAAA\n")
    assert hosts.interrupted() == path.with_name("hosts.apiha-backup")
    change = hosts.unpin()
    assert path.read_bytes() == (b"old old old\n" if restored else found)
    assert beside(path) == []
    assert hosts.interrupted() is None
    words = f"{path} was half written by a run that was killed: its bytes of before are restored"
    assert told(change, path) == ([words] if restored else [])


def test_what_another_program_wrote_after_the_kill_stays(hosts: HostsFile, path: Path) -> None:
    """A container runtime writes the file anew at each start: a backup of before must not undo that."""
    path.write_bytes(b"10.1.1.1 fresh\n")
    path.with_name("hosts.apiha-backup").write_bytes(b"old old old\n")
    path.with_name("hosts.apiha-intended").write_bytes(b"AAAAAAAAA\n")
    change = hosts.pin(HOST, ["10.0.0.11"])
    assert path.read_bytes().startswith(b"10.1.1.1 fresh\n# BEGIN apiha")
    assert beside(path) == ["hosts.apiha-saved"]
    assert path.with_name("hosts.apiha-saved").read_bytes() == b"old old old\n"
    assert "another program wrote it since" in told(change, path)[0]
    assert told(hosts.unpin(), path) == []


def test_half_a_journal_is_no_obstacle(hosts: HostsFile, path: Path) -> None:
    """Whoever removed one of its two files does not keep apiha from working; no bytes are lost."""
    path.with_name("hosts.apiha-backup").write_bytes(b"10.0.0.1 old\n")
    assert hosts.pin(HOST, ["10.0.0.11"]).written
    assert path.read_bytes().startswith(ORIGINAL)
    assert path.with_name("hosts.apiha-saved").read_bytes() == b"10.0.0.1 old\n"


def test_a_backup_that_somebody_else_planted_is_not_used(
    hosts: HostsFile, path: Path, tmp_path: Path
) -> None:
    """In a folder that others write to, a link or a file of another user is no backup of ours."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"old\n")
    path.with_name("hosts.apiha-backup").symlink_to(secret)
    path.with_name("hosts.apiha-intended").write_bytes(b"new\n")
    with pytest.raises(HostsFileError, match=r"hosts\.apiha-backup: not a backup that apiha made"):
        hosts.pin(HOST, ["10.0.0.11"])
    assert path.read_bytes() == ORIGINAL


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    chattr = shutil.which("chattr")
    if os.geteuid() != 0 or chattr is None:
        pytest.skip("needs root and chattr: run the tests as root, install e2fsprogs")
    if subprocess.run([chattr, "+i", path], capture_output=True, check=False).returncode:
        pytest.skip(f"no immutable flag in {path.parent}: set TMPDIR to an ext4 folder")
    try:
        yield
    finally:
        subprocess.run([chattr, "-i", path], check=True)


def test_an_immutable_file_is_named_as_such(hosts: HostsFile, path: Path) -> None:
    """Root is told what may forbid it, and no temporary file stays."""
    with immutable(path):
        with pytest.raises(NotPermitted, match="chattr -i"):
            hosts.pin(HOST, ["10.0.0.11"])
        assert beside(path) == []
    assert path.read_bytes() == ORIGINAL


def test_too_large_for_the_limit_of_the_process(path: Path) -> None:
    """A write stopped by RLIMIT_FSIZE is an error like a full disk: old bytes, no temporary file, one line."""
    program = (
        "import resource, sys\n"
        "from apiha.hosts import HostsFile\n"
        "from apiha.errors import HostsFileError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        "try: HostsFile(sys.argv[1], state_dir=sys.argv[1] + '.state').pin('a', ['10.0.0.1'])\n"
        "except HostsFileError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert "is too large" in done.stdout
    assert path.read_bytes() == ORIGINAL
    assert beside(path) == []


WRITER = """
import itertools, signal, sys
from apiha.hosts import HostsFile
from apiha.hosts.text import render
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
render("a", ["10.0.0.1"])  # imports what the first pin would
hosts = HostsFile(sys.argv[1], state_dir=sys.argv[1] + ".state")
try:
    print(flush=True)
    for address in itertools.cycle(["10.0.0.1", "10.0.0.2"]):
        hosts.pin("a", [address])
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP), (signal.SIGINT, 130)],
)
def test_a_polite_end_leaves_no_temporary_file(number: signal.Signals, expected: int, path: Path) -> None:
    """SIGTERM, SIGHUP and Ctrl-C, whenever they come, end the process as they always do, but after the write."""
    original = b"# large, so that most of the time is spent writing\n" * 40_000
    path.write_bytes(original)
    states = (original, *(splice(original, "a", [address]).data for address in ("10.0.0.1", "10.0.0.2")))
    for attempt in range(10):
        process = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.01 + 0.003 * attempt)
            process.send_signal(number)
            try:
                assert process.wait(30) == expected
            finally:
                process.kill()  # nothing, once it has ended
        assert beside(path) == []
        assert path.read_bytes() in states


@pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, to become somebody who is not: run the tests as root"
)
def test_without_the_rights_nothing_is_touched(path: Path) -> None:
    """Somebody else than root is told to be root; reading stays possible."""
    program = (
        "import os, sys\n"
        "from apiha.hosts import HostsFile\n"
        "from apiha.errors import NotPermitted\n"
        "from apiha.hosts.text import render\n"
        "render('a', ['10.0.0.1'])  # imports what the interpreter may keep where only root reads\n"
        "os.chdir(os.path.dirname(sys.argv[1])); os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "hosts = HostsFile('hosts', state_dir='state')\n"
        "print(len(hosts.read()))\n"
        "try: hosts.pin('a', ['10.0.0.1'])\n"
        "except NotPermitted as error: print(error)\n"
    )
    path.parent.chmod(0o755)
    path.chmod(0o644)
    parents = [parent for parent in path.parents if not parent.stat().st_mode & 0o001]
    modes = [parent.stat().st_mode for parent in parents]
    try:
        for parent in parents:
            parent.chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
        )
    finally:
        for parent, mode in zip(parents, modes, strict=True):
            parent.chmod(mode)
    assert done.stdout.splitlines() == [
        str(len(ORIGINAL)),
        "no permission to read or write hosts: run as root (sudo)",
    ]
    assert path.read_bytes() == ORIGINAL
    assert beside(path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away: run the tests as root")
def test_a_backup_of_another_user_is_not_used(hosts: HostsFile, path: Path) -> None:
    """Whoever may write into the folder cannot have bytes of theirs restored over the hosts file."""
    for name in ("hosts.apiha-backup", "hosts.apiha-intended"):
        path.with_name(name).write_bytes(b"evil\n")
        os.chown(path.with_name(name), 1234, -1)
    with pytest.raises(HostsFileError, match="not a backup that apiha made"):
        hosts.pin(HOST, ["10.0.0.11"])
    assert path.read_bytes() == ORIGINAL


def test_an_input_output_error_is_told_in_words(hosts: HostsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no rule of ours explains is still one line with the system's own words."""

    def broken(_path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "read", broken)
    with pytest.raises(HostsFileError, match=r"could not be read or written: Input/output error$"):
        hosts.pin(HOST, ["10.0.0.11"])


def test_no_other_user_can_hold_the_lock(path: Path, tmp_path: Path) -> None:
    """Anybody may flock(2) a folder that he may read: with a `state_dir` of our own that keeps nobody from writing."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        assert HostsFile(path, state_dir=state).pin(HOST, ["10.0.0.11"], lock_timeout=0.0).written
    finally:
        os.close(folder)
    assert {stat.S_IMODE((state / name).stat().st_mode) for name in os.listdir(state)} == {0o600}
