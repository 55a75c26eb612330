"""`apiha install` and `apiha uninstall` below `--root`: what is put there, and that it all goes again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import zipapp
import zipfile
from pathlib import Path

import pytest

from apiha import paths
from apiha.config import PACKAGED, load, template
from apiha.hosts import splice
from apiha.install.install import for_this_python
from apiha.install.units import DROP_INS, KUBELET_HTTP2, UNITS
from apiha.settings import SETTINGS
from tests.support.cli import Cluster, Worker, without_rights, world_readable
from tests.support.control_plane import DEFAULT_HOST

REPOSITORY = Path(__file__).resolve().parents[2]
# Where things are, below an image.
CONFIG, PROGRAM, RECORD, UNIT_DIR = (
    path.relative_to("/") for path in (paths.CONFIG_FILE, paths.PROGRAM, paths.INSTALL_RECORD, paths.UNIT_DIR)
)
KUBELET_DROP_IN = UNIT_DIR / KUBELET_HTTP2


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """apiha as one file. Unlike `dist/apiha.pyz` it holds apiha alone: its dependencies are this environment's."""
    tree = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "apiha", tree / "apiha", ignore=ignored)
    shutil.copytree(REPOSITORY / "systemd", tree / "apiha" / "systemd", ignore=ignored)
    (tree / "__main__.py").write_text("from apiha.cli.main import main\n\nmain()\n")
    target = tmp_path_factory.mktemp("dist") / "apiha.pyz"
    zipapp.create_archive(tree, target, interpreter=sys.executable)
    target.chmod(0o755)
    return target


@pytest.fixture
def machine(tmp_path: Path, archive: Path) -> Worker:
    """A worker that runs the one file."""
    return Worker(tmp_path, [sys.executable, archive])


@pytest.fixture
def image(in_memory: Path) -> Path:
    """A small Debian-like tree to install into, with things of other people in it."""
    root = in_memory / "image"
    for folder in ("etc/systemd/system/multi-user.target.wants", "usr/local/bin", "var/lib", "home"):
        (root / folder).mkdir(parents=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/systemd/system/other.service").write_text("[Service]\nExecStart=/bin/true\n")
    (root / "etc/systemd/system/multi-user.target.wants/other.service").symlink_to(
        "/etc/systemd/system/other.service"
    )
    (root / "usr/local/bin/other").write_text("#!/bin/sh\n")
    return root


def snapshot(root: Path) -> dict[str, tuple[str, str]]:
    """Every path below `root` with its mode and what it holds."""
    found = {}
    for path in sorted(root.rglob("*")):
        mode = stat.filemode(path.lstat().st_mode)
        if path.is_symlink():
            content = os.readlink(path)
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(root))] = (mode, content)
    return found


def test_what_is_installed(machine: Worker, image: Path, archive: Path) -> None:
    """The units, as they are shipped; a configuration that parses; the program itself; nothing else."""
    before = snapshot(image)
    done = machine.run("install", "--root", image).ok()
    assert "apiha: installed and enabled" in done.stderr
    added = {path: entry for path, entry in snapshot(image).items() if path not in before}
    files = {path for path, (mode, _) in added.items() if mode.startswith("-")}
    assert files == {
        *(str(UNIT_DIR / unit) for unit in (*UNITS, *DROP_INS)),
        *(str(CONFIG), str(PROGRAM), str(RECORD)),
    }
    for unit in (*UNITS, *DROP_INS):
        assert (image / UNIT_DIR / unit).read_bytes() == (REPOSITORY / "systemd" / unit).read_bytes()
    assert (image / PROGRAM).read_bytes() == archive.read_bytes()
    assert added[str(PROGRAM)][0] == "-rwxr-xr-x"
    assert added[str(CONFIG)][0] == "-rw-r--r--"
    assert {path: entry for path, entry in snapshot(image).items() if path in before} == before
    installed = subprocess.run(
        [sys.executable, image / PROGRAM, "--version"], capture_output=True, text=True, check=True
    )
    assert installed.stdout.startswith("apiha ")


def test_the_configuration_teaches(machine: Worker, image: Path) -> None:
    """Every key is there as a comment with what it does; the file as it is parses to the defaults."""
    machine.run("install", "--root", image).ok()
    text = (image / CONFIG).read_text()
    for setting in SETTINGS:
        assert f"# {setting.help}\n# {setting.key}: {setting.example}\n" in text
    assert load(image / CONFIG, {}, {}) == load(None, {}, {})
    uncommented = "\n".join(
        line[2:] if line.startswith("# ") and line[2:].split(":")[0] in {s.key for s in SETTINGS} else line
        for line in text.splitlines()
    )
    (image / CONFIG).write_text(uncommented)
    assert load(image / CONFIG, {}, {}).vip == "10.96.0.100"


def test_settings_go_into_a_new_configuration(machine: Worker, image: Path, cluster: Cluster) -> None:
    """Settings given as flags, before or after the command, are filled in, and the node works with them."""
    machine.run(
        *(
            "--vip",
            "10.96.0.100",
            "install",
            "--root",
            image,
            "--control-plane",
            "10.0.0.11, [fd00::12]:7443",
        ),
        *("--fallbacks", "no", "--probe-timeout", "1500ms", "--port", "7000"),
    ).ok()
    config = load(image / CONFIG, {}, {})
    assert [str(endpoint) for endpoint in config.control_plane] == ["10.0.0.11:7000", "[fd00::12]:7443"]
    assert (config.vip, config.fallbacks, config.probe_timeout) == ("10.96.0.100", False, 1.5)


def test_bad_settings_install_nothing(machine: Worker, image: Path) -> None:
    """A bad flag is exit code 5, and nothing is put anywhere."""
    before = snapshot(image)
    machine.run("install", "--root", image, "--vip", "apiserver").failed(5, "--vip")
    assert snapshot(image) == before


def test_uninstall_leaves_the_tree_as_it_was(machine: Worker, image: Path) -> None:
    """After install, and install once more with everything, uninstall gives back the very same tree."""
    before = snapshot(image)
    machine.run("install", "--root", image).ok()
    machine.run("install", "--root", image, "--kubelet-http2").ok()
    assert str(KUBELET_DROP_IN) in snapshot(image)
    machine.run("uninstall", "--root", image).ok()
    assert snapshot(image) == before
    assert "nothing was installed" in machine.run("uninstall", "--root", image).ok().stderr
    assert snapshot(image) == before


def test_uninstall_takes_the_block_and_the_state(machine: Worker, image: Path, cluster: Cluster) -> None:
    """The block in the image's hosts file goes, adopted lines return, what was learned goes; or --keep-block."""
    hosts = image / "etc/hosts"
    hosts.write_text(f"10.9.9.9 {DEFAULT_HOST}\n")
    before = snapshot(image)
    machine.run("install", "--root", image).ok()
    machine.configure(cluster.settings, on_conflict="adopt")
    machine.hosts = hosts
    machine.run("pin-host").ok()
    (image / "var/lib/apiha/control-planes.json").write_text("{}")
    machine.hosts = Path("/etc/hosts")  # the default, seen from the image
    machine.run("uninstall", "--root", image, "--keep-block").ok()
    assert "# BEGIN apiha" in hosts.read_text()
    machine.run("install", "--root", image).ok()
    machine.run("uninstall", "--root", image).ok()
    assert snapshot(image) == before


def test_a_configuration_is_never_overwritten(machine: Worker, image: Path) -> None:
    """One that is there before the first install stays as it is, then and at the end."""
    config = image / CONFIG
    config.parent.mkdir()
    config.write_text("vip: 10.96.0.7\n")
    before = snapshot(image)
    done = machine.run("install", "--root", image, "--vip", "10.96.0.8").ok()
    assert f"kept {config}" in done.stderr
    assert "apiha: warning: " in done.stderr
    assert config.read_text() == "vip: 10.96.0.7\n"
    machine.run("uninstall", "--root", image).ok()
    assert snapshot(image) == before


@pytest.mark.parametrize("shipped", [template(), PACKAGED], ids=["commented", "package's"])
def test_a_configuration_that_says_nothing_yet_is_filled_in(
    machine: Worker, image: Path, shipped: str
) -> None:
    """As it is shipped it counts as none: settings go into it, and uninstall gives it back."""
    config = image / CONFIG
    config.parent.mkdir()
    config.write_text(shipped)
    before = snapshot(image)
    machine.run("install", "--root", image).ok().tells("fill in control_plane and vip")
    assert config.read_text() == shipped
    machine.run("install", "--root", image, "--vip", "10.96.0.8").ok()
    assert load(config, {}, {}).vip == "10.96.0.8"
    machine.run("install", "--root", image, "--vip", "10.96.0.9").ok().tells("was not changed")
    machine.run("uninstall", "--root", image).ok()
    assert snapshot(image) == before


def test_a_dangling_configuration_link_is_kept(machine: Worker, image: Path) -> None:
    """A link to a configuration that is not there yet (a volume, a secret) counts as one."""
    config = image / CONFIG
    config.parent.mkdir()
    config.symlink_to("/run/secrets/apiha.yaml")
    machine.run("install", "--root", image).ok()
    assert os.readlink(config) == "/run/secrets/apiha.yaml"


def test_what_was_edited_is_kept_and_named(machine: Worker, image: Path) -> None:
    """Uninstall removes what install wrote, but keeps a configuration or unit that somebody edited since."""
    machine.run("install", "--root", image).ok()
    unit = image / UNIT_DIR / "apiha-vip.service"
    (image / CONFIG).write_text("vip: 10.96.0.100\n")
    unit.write_text(unit.read_text() + "# mine\n")
    done = machine.run("uninstall", "--root", image).ok()
    assert f"kept {image / CONFIG}" in done.stderr
    assert f"kept {unit}" in done.stderr
    assert (image / CONFIG).read_text() == "vip: 10.96.0.100\n"
    assert "apiha-bootstrap.service" not in " ".join(snapshot(image))


def test_files_of_others_in_our_folders_stay(machine: Worker, image: Path) -> None:
    """A folder that install made is removed only when nobody else uses it by then."""
    machine.run("install", "--root", image, "--kubelet-http2").ok()
    other = image / "etc/systemd/system/kubelet.service.d/99-other.conf"
    other.write_text("[Service]\n")
    machine.run("uninstall", "--root", image).ok()
    assert other.exists()
    assert not (image / KUBELET_DROP_IN).exists()


def test_kubelet_http2(machine: Worker, image: Path) -> None:
    """With --kubelet-http2 a drop-in sets the two variables that let kubelet notice a dead connection."""
    machine.run("install", "--root", image).ok()
    assert not (image / KUBELET_DROP_IN).exists()
    machine.run("install", "--root", image, "--kubelet-http2").ok()
    text = (image / KUBELET_DROP_IN).read_text()
    assert "HTTP2_READ_IDLE_TIMEOUT_SECONDS=5" in text
    assert "HTTP2_PING_TIMEOUT_SECONDS=3" in text


def test_links_are_those_of_systemctl(machine: Worker, image: Path, tmp_path: Path) -> None:
    """The enablement links are exactly those that `systemctl --root=DIR enable` makes."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        pytest.skip("needs systemctl: install systemd (it need not run)")
    machine.run("install", "--root", image).ok()
    ours = {path: entry for path, entry in snapshot(image).items() if ".wants" in path}
    assert len(ours) > 2
    other = tmp_path / "other"
    (other / UNIT_DIR).mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(REPOSITORY / "systemd" / unit, other / UNIT_DIR / unit)
    (other / UNIT_DIR / "other.service").write_text(
        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
    )
    enabled = [unit for unit in UNITS if "[Install]" in (REPOSITORY / "systemd" / unit).read_text()]
    done = subprocess.run(
        [systemctl, f"--root={other}", "enable", *enabled, "other.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    theirs = {path: entry for path, entry in snapshot(other).items() if ".wants" in path}
    assert ours == theirs


def test_without_the_one_file_an_image_lacks_the_program(worker: Worker, image: Path) -> None:
    """From an ordinary installation outside of the image, install says that the program would be missing."""
    before = snapshot(image)
    done = worker.run("install", "--root", image)
    assert done.code == 1
    assert "is not in the image: install with apiha.pyz" in done.tells().stderr
    assert snapshot(image) == before


def test_a_program_inside_the_image(tmp_path: Path, image: Path) -> None:
    """An installation inside the image is found there, and the units name its path as the image sees it."""
    program = image / "opt/apiha/bin/apiha"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\nfrom apiha.cli.main import main\nmain()\n")
    program.chmod(0o755)
    worker = Worker(tmp_path, [program])
    worker.run("install", "--root", image).ok()
    text = (image / UNIT_DIR / "apiha-vip.service").read_text()
    assert "ExecStart=/opt/apiha/bin/apiha wait-vip" in text
    assert "/usr/local/bin/apiha" not in text


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_a_root_that_is_none(machine: Worker, command: str, tmp_path: Path) -> None:
    """A --root that is missing or a file is one line, and nothing is made."""
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "missing", tmp_path / "file"):
        done = machine.run(command, "--root", root)
        assert done.code == 1, done
        assert "not a folder" in done.tells().stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "missing").exists()


def test_links_do_not_lead_out_of_the_image(machine: Worker, image: Path, tmp_path: Path) -> None:
    """An absolute link inside the image (as images have them) never makes a file of this machine."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (image / "var/lib").rmdir()
    (image / "var/lib").symlink_to(outside)
    done = machine.run("install", "--root", image)
    assert done.code == 1, done
    assert f"{image}/var/lib" in done.tells().stderr
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("command", ["install", "uninstall"])
@pytest.mark.parametrize("link", ["etc/systemd/system/multi-user.target.wants", "etc/apiha", "var/lib/apiha"])
def test_no_link_leads_out_of_the_image(
    machine: Worker, image: Path, tmp_path: Path, command: str, link: str
) -> None:
    """Whatever folder of ours is a link to this machine: one line, and neither side is touched."""
    if command == "uninstall":
        machine.run("install", "--root", image).ok()
    outside = tmp_path / "outside"
    if (image / link).exists():
        shutil.move(image / link, outside)
    else:
        outside.mkdir()
    (image / link).symlink_to(outside)
    before = snapshot(tmp_path)
    machine.run(command, "--root", image).failed(1, f"{image / link} leads out of the image")
    assert snapshot(tmp_path) == before


def test_no_temporary_name_can_be_foreseen(machine: Worker, image: Path, tmp_path: Path) -> None:
    """A link laid where a temporary file used to be is not followed."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (image / "etc/apiha").mkdir()
    (image / "etc/apiha/.config.yaml.apiha-new").symlink_to(precious)
    machine.run("install", "--root", image).ok()
    assert precious.read_text() == "mine"


def test_a_hosts_file_outside_of_the_image(machine: Worker, image: Path, tmp_path: Path) -> None:
    """Uninstall never unpins this machine's file by a link in the image; with --keep-block it can go on."""
    machine.run("install", "--root", image).ok()
    ours = tmp_path / "ours"
    ours.write_bytes(splice(b"127.0.0.1 localhost\n", DEFAULT_HOST, ["10.0.0.11"]).data)
    (image / "etc/hosts").unlink()
    (image / "etc/hosts").symlink_to(ours)
    machine.hosts = Path("/etc/hosts")
    before = snapshot(tmp_path)
    machine.run("uninstall", "--root", image).failed(1, f"{image}/etc/hosts leads out of the image")
    assert snapshot(tmp_path) == before
    machine.run("uninstall", "--root", image, "--keep-block").ok()
    assert b"# BEGIN apiha" in ours.read_bytes()


@pytest.mark.parametrize("key", ["files", "pending", "folders"])
def test_a_record_that_leads_out_of_the_image(machine: Worker, image: Path, tmp_path: Path, key: str) -> None:
    """A path with `..` in the record makes it a damaged one: nothing is removed."""
    machine.run("install", "--root", image).ok()
    precious = tmp_path / "precious"
    precious.write_text("mine")
    path = "/../precious"
    document = json.loads((image / RECORD).read_text())
    document[key] = [path] if key == "folders" else {path: hashlib.sha256(b"mine").hexdigest()}
    (image / RECORD).write_text(json.dumps(document))
    before = snapshot(tmp_path)
    machine.run("uninstall", "--root", image).failed(1, str(image / RECORD), path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("path", [PROGRAM, UNIT_DIR / UNITS[0], UNIT_DIR / DROP_INS[1], KUBELET_DROP_IN])
def test_what_others_put_there_is_not_overwritten(machine: Worker, image: Path, path: Path) -> None:
    """A file of the same name that install did not write: one line with what to do, and nothing is written."""
    (image / path).parent.mkdir(exist_ok=True)
    (image / path).write_text("of somebody else")
    before = snapshot(image)
    machine.run("install", "--root", image, "--kubelet-http2").failed(1, str(image / path), "move it away")
    assert snapshot(image) == before


def test_an_identical_file_of_others_stays(machine: Worker, image: Path) -> None:
    """What was there before, just as install would write it, is still there after uninstall."""
    shutil.copy(REPOSITORY / "systemd" / UNITS[0], image / UNIT_DIR / UNITS[0])
    before = snapshot(image)
    machine.run("install", "--root", image).ok()
    machine.run("uninstall", "--root", image).ok()
    assert snapshot(image) == before


def test_a_run_that_fails_halfway_is_recorded(machine: Worker, image: Path) -> None:
    """Whatever an install wrote before it failed, uninstall finds; or a second install completes."""
    before = snapshot(image)
    (image / "etc/apiha").symlink_to("nowhere")  # mkdir(2) fails on it, after the program was written
    machine.run("install", "--root", image).failed(1, f"{image}/etc/apiha")
    assert (image / PROGRAM).exists()
    (image / "etc/apiha").unlink()
    machine.run("uninstall", "--root", image).ok()
    assert snapshot(image) == before
    (image / "etc/apiha").symlink_to("nowhere")
    machine.run("install", "--root", image).failed(1)
    (image / "etc/apiha").unlink()
    machine.run("install", "--root", image).ok()
    assert (image / CONFIG).exists()
    machine.run("uninstall", "--root", image).ok()
    assert snapshot(image) == before


# Installs below argv[2] and is killed at the step argv[1]: a file opened for writing, renamed, made, linked, removed.
KILLED = """
import os, sys
from pathlib import Path
from apiha.install.install import install
from apiha.log import Reporter

step, root = int(sys.argv[1]), Path(sys.argv[2])
CHANGES = {"open", "os.rename", "os.mkdir", "os.symlink", "os.remove", "os.chmod", "ctypes.dlsym"}
seen = 0

def kill(event, arguments):
    global seen
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        return
    seen += event in CHANGES
    if seen == step:
        os._exit(9)  # as SIGKILL: nothing is put in order

sys.argv[0] = str(root / "opt/apiha")
sys.addaudithook(kill)
install(Reporter(), root=root, kubelet_http2=True)
"""


def test_uninstall_removes_what_a_killed_install_left(machine: Worker, image: Path) -> None:
    """Killed at whatever step, an install leaves nothing that uninstall does not find."""
    program = image / "opt/apiha"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    before = snapshot(image)
    kills = 0
    while True:
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(kills + 1), str(image)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            break
        assert done.returncode == 9, done.stderr
        kills += 1
        machine.run("uninstall", "--root", image).ok()
        assert snapshot(image) == before, f"killed at step {kills}"
    assert kills > 50
    machine.run("uninstall", "--root", image).ok()
    assert snapshot(image) == before


def test_uninstall_removes_a_hosts_file_that_was_not_there(
    machine: Worker, image: Path, cluster: Cluster
) -> None:
    """An image without a hosts file: the pin made one, and it goes with the block."""
    hosts = image / "etc/hosts"
    hosts.unlink()
    before = snapshot(image)
    machine.run("install", "--root", image).ok()
    machine.configure(cluster.settings)
    machine.hosts = hosts
    machine.run("pin-host").ok()
    assert hosts.exists()
    machine.hosts = Path("/etc/hosts")  # the default, seen from the image
    machine.run("uninstall", "--root", image).ok()
    assert snapshot(image) == before


def test_uninstall_copes_with_what_is_gone(machine: Worker, image: Path) -> None:
    """Files that somebody removed since are no error."""
    before = snapshot(image)
    machine.run("install", "--root", image).ok()
    (image / PROGRAM).unlink()
    shutil.rmtree(image / "etc/apiha")
    machine.run("uninstall", "--root", image).ok()
    assert snapshot(image) == before


def test_uninstall_says_what_was_lost_and_keeps_saved_bytes(machine: Worker, image: Path) -> None:
    """Lines dropped from the block are named as by unpin; saved bytes of a hosts file are kept, and named."""
    machine.run("install", "--root", image).ok()
    block = splice(b"", DEFAULT_HOST, ["10.0.0.11"]).data
    (image / "etc/hosts").write_bytes(block.replace(b"# END", b"10.1.1.1 nas\n# END"))
    saved = image / "var/lib/apiha/etc-hosts.apiha-saved"
    saved.write_bytes(b"10.2.2.2 precious\n")
    machine.hosts = Path("/etc/hosts")
    done = machine.run("uninstall", "--root", image).ok()
    done.tells("dropped from the block, it was not apiha's: 10.1.1.1 nas", f"kept {saved}")
    assert saved.read_bytes() == b"10.2.2.2 precious\n"
    assert list(saved.parent.iterdir()) == [saved]


def test_a_damaged_record(machine: Worker, image: Path) -> None:
    """A record that is no record is said in one line."""
    machine.run("install", "--root", image).ok()
    (image / RECORD).write_text("{")
    done = machine.run("uninstall", "--root", image)
    assert done.code == 1
    assert str(image / RECORD) in done.tells().stderr


def test_a_read_only_image(archive: Path) -> None:
    """Without the rights for the image it is exit code 6 and one line, and nothing is put there."""
    with world_readable() as folder:
        root = folder / "image"
        root.mkdir()
        program = Path(shutil.copy(archive, folder / "apiha.pyz"))
        worker = Worker(folder, [sys.executable, program])
        with without_rights(folder) as before:
            worker.run("install", "--root", root, before=before).failed(6, str(root), "root")
        assert list(root.iterdir()) == []


def test_the_installed_archive_is_made_for_the_python_that_installed_it(tmp_path: Path) -> None:
    """It names that Python (the node's `python3` may be too old), and holds code that this one need not compile."""
    buffer = io.BytesIO(b"#!/usr/bin/env python3\n")
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a") as zipped:
        zipped.writestr("__main__.py", "import module; print(module.__file__, module.f.__code__.co_filename)")
        zipped.writestr("module.py", "def f(): pass\n")
        zipped.writestr("module.pyc", b"code for another Python")
    archive = buffer.getvalue()
    installed = for_this_python(archive, in_image=False)
    assert installed.partition(b"\n")[0] == f"#!{sys.executable} -IS".encode()
    assert for_this_python(archive, in_image=True) == archive  # an image has a Python of its own
    program = tmp_path / "program"
    program.write_bytes(installed)
    done = subprocess.run([sys.executable, "-v", program], capture_output=True, text=True, check=True)
    assert "module.pyc" in done.stdout.split()[0]
    # The same again gives the same bytes: what is recorded of it stays true.
    assert for_this_python(installed, in_image=False) == installed
