"""The hosts file where a rename is not possible, where the disk is full, and as glibc reads it.

Each test runs its scenario in a process with a mount namespace of its own: every mount goes with that process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apiha.errors import ApihaError
from apiha.hosts import BlockChanged, HostsFile, current, find_foreign, splice
from tests.support.mountns import mount, run

HOST = "apiserver.cluster.local"
ORIGINAL = b"127.0.0.1\tlocalhost\n10.0.0.7 db"


def etc(folder: Path) -> Path:
    """A hosts file in a folder of its own."""
    path = folder / "etc" / "hosts"
    path.parent.mkdir()
    path.write_bytes(ORIGINAL)
    return path


def fails(hosts: HostsFile) -> dict[str, Any]:
    """What a pin that must fail says, and leaves."""
    before = hosts.read()
    try:
        hosts.pin(HOST, ["10.0.0.11", "10.0.0.12"])
    except ApihaError as error:
        return {
            "error": f"{type(error).__name__}: {error}",
            "same": hosts.read() == before,
            "beside": sorted(os.listdir(hosts.path.parent)),
        }
    return {"error": None}


def full_disk(folder: Path) -> dict[str, Any]:
    mount("-t", "tmpfs", "-o", "size=64k", "none", folder)
    path = folder / "hosts"
    path.write_bytes(b"127.0.0.1 localhost\n" * 2048)  # 40 of 64 KiB: a second one finds no room
    return fails(HostsFile(path, state_dir=folder / "state"))


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """The error says that there is no space, and no temporary file takes what is left."""
    result = run(full_disk, tmp_path)
    assert result["error"].startswith("HostsFileError: no space left to write")
    assert "it is as it was" in result["error"]
    assert result["same"]
    assert result["beside"] == ["hosts"]


def full_disk_in_place(folder: Path) -> dict[str, Any]:
    path = etc(folder)
    small = folder / "small"
    small.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "none", small)  # 16 pages, of which the file takes 10
    source = small / "hosts"
    block = splice(b"", HOST, ["10.0.0.11"]).data  # in front, so that a longer one moves every byte after it
    source.write_bytes(block + b"127.0.0.1 localhost\n" * 2000 + b"#" * (960 - len(block)))
    with (small / "fill").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    mount("--bind", source, path)
    return fails(HostsFile(path, state_dir=folder / "state"))


def test_a_disk_that_fills_halfway_gets_the_old_bytes_back(tmp_path: Path) -> None:
    """Where the file must be written in place, what was overwritten is put back and the backup removed."""
    result = run(full_disk_in_place, tmp_path)
    assert result["error"].startswith("HostsFileError: no space left to write")
    assert result["same"]
    assert result["beside"] == ["hosts"]


def full_disk_for_the_backup(folder: Path) -> dict[str, Any]:
    path = etc(folder)
    data = b"127.0.0.1 localhost\n" * 2048
    path.write_bytes(data)
    other = folder / "other"
    other.write_bytes(data)
    mount("-t", "tmpfs", "-o", "size=64k", "none", path.parent)
    path.touch()
    mount("--bind", other, path)
    return fails(HostsFile(path, state_dir=folder / "state"))


def test_no_room_for_the_backup_means_no_write(tmp_path: Path) -> None:
    """The file itself is not touched before its backup is safe."""
    result = run(full_disk_for_the_backup, tmp_path)
    assert result["error"].startswith("HostsFileError: no space left to write")
    assert result["same"]
    assert result["beside"] == ["hosts"]


def read_only(folder: Path) -> dict[str, Any]:
    path = etc(folder)
    hosts = HostsFile(path, state_dir=folder / "state")
    hosts.pin(HOST, ["10.0.0.1"])
    mount("--bind", path.parent, path.parent)
    mount("-o", "remount,bind,ro", path.parent)
    unchanged = hosts.pin(HOST, ["10.0.0.1"])
    return {**fails(hosts), "unchanged": unchanged.written}


def test_a_read_only_mount_leaves_the_old_file(tmp_path: Path) -> None:
    """The error says so; where there is nothing to write there is no error."""
    result = run(read_only, tmp_path)
    assert result["error"].startswith("HostsFileError: ")
    assert "is on a read-only file system: it is as it was; remount that read-write" in result["error"]
    assert result["same"]
    assert result["beside"] == ["hosts"]
    assert result["unchanged"] is False


def bind_mounted(folder: Path) -> dict[str, Any]:
    path = etc(folder)
    source = folder / "source"
    source.write_bytes(ORIGINAL)
    source.chmod(0o640)
    mount("--bind", source, path)
    inode = path.stat().st_ino
    hosts = HostsFile(path, state_dir=folder / "state")
    hosts.pin(HOST, ["10.0.0.11", "10.0.0.12"])
    hosts.pin(HOST, ["10.0.0.12"])
    addresses = current(source.read_bytes(), HOST).addresses
    status = path.stat()
    times = status.st_mtime_ns, status.st_ctime_ns
    unchanged = hosts.pin(HOST, ["10.0.0.12"])
    again = path.stat()
    hosts.unpin()
    return {
        "addresses": addresses,
        "same_inode": status.st_ino == inode,
        "mode": status.st_mode & 0o777,
        "unchanged": unchanged.written,
        "untouched": times == (again.st_mtime_ns, again.st_ctime_ns),
        "restored": source.read_bytes() == ORIGINAL,
        "beside": sorted(os.listdir(path.parent)),
        "state": (folder / "state").exists(),
    }


def test_a_bind_mounted_hosts_file_is_updated(tmp_path: Path) -> None:
    """As in a container: the mounted file itself gets the block, grows, shrinks and gets its first bytes back."""
    assert run(bind_mounted, tmp_path) == {
        "addresses": ["10.0.0.12"],
        "same_inode": True,
        "mode": 0o640,
        "unchanged": False,
        "untouched": True,
        "restored": True,
        "beside": ["hosts"],
        "state": False,
    }


def read_only_folder(folder: Path) -> dict[str, Any]:
    path = etc(folder)
    source = folder / "source"
    source.write_bytes(ORIGINAL)
    mount("--bind", path.parent, path.parent)
    mount("-o", "remount,bind,ro", path.parent)
    mount("--bind", source, path)
    state = folder / "var" / "state-dir"
    hosts = HostsFile(path, state_dir=state)
    hosts.pin(HOST, ["10.0.0.11"])
    addresses = current(source.read_bytes(), HOST).addresses
    left = [name for name in os.listdir(state) if ".apiha-" in name]
    # A run that was killed here: its backup is found again, by the escaped path.
    name = str(path).strip("/").replace("-", "\\x2d").replace("/", "-")
    intended = source.read_bytes()
    (state / f"{name}.apiha-backup").write_bytes(ORIGINAL)
    (state / f"{name}.apiha-intended").write_bytes(intended)
    source.write_bytes(intended[:60] + ORIGINAL[60:])
    found = hosts.interrupted()
    recovered = hosts.unpin().recovered
    result = {
        "addresses": addresses,
        "left": left,
        "found": found is not None and found.parent == state,
        "recovered": recovered,
        "restored": source.read_bytes() == ORIGINAL,
        "left_in_the_end": [name for name in os.listdir(state) if ".apiha-" in name],
    }
    mount("-t", "tmpfs", "-o", "ro", "none", folder / "var")
    return {**result, **fails(HostsFile(path, state_dir=state))}


def test_a_read_only_folder_keeps_the_backup_in_the_state_directory(tmp_path: Path) -> None:
    """Where only the file itself is writable, as in a unit's sandbox; without a place for a backup: no write."""
    result = run(read_only_folder, tmp_path)
    assert result["addresses"] == ["10.0.0.11"]
    assert result["left"] == []
    assert result["found"]
    assert "was half written by a run that was killed" in result["recovered"]
    assert result["restored"]
    assert result["left_in_the_end"] == []
    assert "cannot keep a backup of it (Read-only file system): make that folder writable" in result["error"]
    assert result["same"]


def append(hosts: HostsFile, address: str) -> None:
    """Put an address behind those that the block has."""
    while True:
        block = current(hosts.read(), HOST).addresses
        try:
            hosts.pin(HOST, [*block, address], expected=block, lock_timeout=60)
            return
        except BlockChanged:
            continue


def shared_by_two_containers(folder: Path) -> dict[str, Any]:
    mount("-t", "tmpfs", "none", folder)  # where a hundred writes do not wait for a disk one after the other
    source = folder / "source"
    source.touch()
    hosts = []
    for name in ("one", "two"):
        path = folder / name / "hosts"
        path.parent.mkdir()
        path.touch()
        mount("--bind", source, path)
        hosts.append(HostsFile(path, state_dir=folder / f"state-{name}"))
    children = []
    for number in range(20):
        if (child := os.fork()) == 0:
            try:
                for address in range(number * 5, number * 5 + 5):
                    append(hosts[number % 2], f"10.0.0.{address}")
            finally:
                os._exit(sys.exc_info()[0] is not None)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return {"codes": codes, "addresses": sorted(current(source.read_bytes(), HOST).addresses)}


def test_two_containers_with_one_file_take_turns(tmp_path: Path) -> None:
    """Their folders differ, so it is the file itself that they lock; no change of either is lost."""
    assert run(shared_by_two_containers, tmp_path) == {
        "codes": [0] * 20,
        "addresses": sorted(f"10.0.0.{number}" for number in range(100)),
    }


def getent(name: str) -> list[str]:
    """The addresses that glibc finds in /etc/hosts, without asking any server."""
    done = subprocess.run(["getent", "-s", "hosts:files", "ahosts", name], capture_output=True, check=False)
    fields = [line.split() for line in done.stdout.splitlines()]
    return [field[0].decode() for field in fields if field[1:2] == [b"STREAM"]]


def as_glibc_reads_it(folder: Path) -> dict[str, Any]:
    path = folder / "hosts"
    path.write_bytes(b"127.0.0.1 localhost\n10.0.0.9 db " + HOST.upper().encode() + b" www # ours\n")
    mount("--bind", path, "/etc/hosts")
    hosts = HostsFile(state_dir=folder / "state")
    before = {name: getent(name) for name in (HOST, "db", "www")}
    hosts.pin(HOST, ["10.96.0.100", "10.0.0.11", "fd00::11"], "adopt")
    pinned = {name: sorted(getent(name)) for name in (HOST, "db", "www")}
    hosts.unpin()
    return {"before": before, "pinned": pinned, "after": {name: getent(name) for name in (HOST, "db", "www")}}


def needs_getent() -> None:
    if shutil.which("getent") is None or "GLIBC" not in str(os.confstr("CS_GNU_LIBC_VERSION")).upper():
        pytest.skip("needs getent of glibc: install libc-bin, on a distribution with glibc")


def test_glibc_finds_the_block_and_the_names_carried_over(tmp_path: Path) -> None:
    """The real resolver, with the file bound over /etc/hosts: only the host's addresses are different."""
    needs_getent()
    result = run(as_glibc_reads_it, tmp_path)
    old = {HOST: ["10.0.0.9"], "db": ["10.0.0.9"], "www": ["10.0.0.9"]}
    assert result["before"] == old
    assert result["pinned"] == {**old, HOST: sorted(["10.96.0.100", "10.0.0.11", "fd00::11"])}
    assert result["after"] == old


ODD_LINES = [
    b"10.0.0.9 name",
    b" \t10.0.0.9\tname",
    b"\v10.0.0.9\vname\f",
    b"10.0.0.9\rname\r",
    b"10.0.0.9 a b c d NAME e",
    b"10.0.0.9 name#comment",
    b"10.0.0.9 a#name",
    b"10.0.0.9#name",
    b"#10.0.0.9 name",
    b"10.0.0.9",
    b"10.0.0.9 ",
    b"10.0.9 name",
    b"010.0.0.9 name",
    b"10.0.0.9. name",
    b"0x0a000009 name",
    b"fd00::9 name",
    b"FD00::9 name",
    b"[fd00::9] name",
    b"::ffff:10.0.0.9 name",
    b"name 10.0.0.9",
    b"10.0.0.9 under_score -name- name",
    b"10.0.0.9 caf\xe9 name",
    b"10.0.0.9\xa0name",
    b"10.0.0.9\xc2\xa0name",
    b"10.0.0.9\x1fname",
    b"\xef\xbb\xbf10.0.0.9 name",
    b"10.0.0.9 name\0other",
    b"10.0.0.9 " + b"a" * 9000 + b" name",
]


def odd_lines(folder: Path) -> dict[str, Any]:
    path = folder / "hosts"
    path.touch()
    mount("--bind", path, "/etc/hosts")
    found = []
    for line in ODD_LINES:
        path.write_bytes(line + b"\n")
        found.append(bool(getent("name")))
    return {"found": found}


def test_foreign_is_what_glibc_finds(tmp_path: Path) -> None:
    """For lines that parsers disagree about, the real resolver and the rule in apiha.hosts agree."""
    needs_getent()
    found = run(odd_lines, tmp_path)["found"]
    assert [(line, bool(find_foreign(line, "name"))) for line in ODD_LINES] == list(
        zip(ODD_LINES, found, strict=True)
    )
