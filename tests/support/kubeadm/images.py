"""Container images without a registry: those of Kubernetes from its binaries, the updater's from the Containerfile.

They end in a folder that is a containerd's `/var/lib/containerd`, ready to be copied onto a machine's disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from apiha import __version__
from tests.support.cache import cache_folder, cached, fingerprint
from tests.support.kube.binaries import assets_directory
from tests.support.kubeadm.disk import images
from tests.support.machine.filesystem import debootstrap, recipe

REPOSITORY = Path(__file__).resolve().parents[3]
UPDATER_IMAGE = f"registry.example.com/apiha:{__version__}"  # as the documentation calls it
BINARIES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "kube-proxy")
# What kube-proxy's image has beside it, and what the Containerfile expects of its base.
PROXY_PACKAGES = ("conntrack", "iptables", "kmod", "nftables")
PYTHON_PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
SOURCES = (
    *(
        ".dockerignore",
        "Containerfile",
        "LICENSE",
        "README.md",
        "apiha",
        "deploy/grafana",
        "pyproject.toml",
        "systemd",
    ),
    *("requirements-node.lock", "requirements-updater.lock", "requirements-wheel.lock"),
    *("tools/epoch.py", "tools/pyz.py", "tools/vendor.py"),
)
# A process that does nothing until it is told to end; it reaps no children, for kubelet shares no pid namespaces here.
# With an argument (`-v`) it ends at once: that is how `kubeadm upgrade` sees whether the cluster runs Jobs.
PAUSE = """
#include <signal.h>
#include <unistd.h>
static void leave(int signal) { _exit(signal == SIGTERM ? 0 : 1); }
int main(int argc, char **argv) {
    signal(SIGINT, leave);
    signal(SIGTERM, leave);
    while (argc == 1) pause();
    return 0;
}
"""


def store() -> Path:
    """A `/var/lib/containerd` with every image; made if the cache has none: a few minutes, 1.5 GB.

    Raises RuntimeError or CalledProcessError if one of them cannot be made.
    """
    kubernetes = cached("kubeadm-images", _kubernetes_inputs(), _import_kubernetes)
    inputs = [kubernetes.name, fingerprint(REPOSITORY / name for name in SOURCES)]

    def build(folder: Path) -> None:
        copy_store(kubernetes, folder)
        with tempfile.TemporaryDirectory(prefix="apiha-image-") as scratch:
            archive = Path(scratch) / "updater.tar"
            build_updater(archive)
            with _containerd(folder) as load:
                load(archive)

    return cached("kubeadm-store", inputs, build)


def copy_store(source: Path, target: Path) -> None:
    """Copy a store in a second: what containerd never changes (blobs, layers) is linked, its databases are copied."""
    target.mkdir(exist_ok=True)
    subprocess.run(["cp", "-al", f"{source}/.", target], check=True)
    for database in target.rglob("*.db"):
        if "snapshots" not in database.relative_to(target).parts:
            data = database.read_bytes()
            database.unlink()
            database.write_bytes(data)


def archive(target: Path, name: str, layer: bytes, entrypoint: Sequence[str] = ()) -> None:
    """Write an image of one layer in the format of `docker save`; `layer` is a tar."""
    layer_id = hashlib.sha256(layer).hexdigest()
    environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": environment, "Entrypoint": list(entrypoint)},
            "history": [{"created_by": "tests"}],  # buildah counts them
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_id}"]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{layer_id}/layer.tar"]}]
    with tarfile.open(target, "w") as tar:
        _add(tar, config_name, config)
        _add(tar, f"{layer_id}/layer.tar", layer)
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    for parent in reversed(Path(name).parents[:-1]):
        if str(parent) not in tar.getnames():
            folder = tarfile.TarInfo(str(parent))
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def _layer(name: str, program: Path) -> bytes:
    """A layer with one program."""
    with io.BytesIO() as memory:
        with tarfile.open(fileobj=memory, mode="w") as tar:
            _add(tar, name, program.read_bytes(), mode=0o755)
        return memory.getvalue()


def _tree(root: Path) -> bytes:
    """A layer with all that is below `root`."""
    return subprocess.run(
        ["tar", "--directory", root, "--numeric-owner", "--create", "."], capture_output=True, check=True
    ).stdout


# ---------------------------------------------------------------------------------------------- Kubernetes


def _kubernetes_inputs() -> list[object]:
    # Size and time instead of half a gigabyte's hash, at each start of the tests.
    states = [(assets_directory() / name).stat() for name in BINARIES]
    binaries = [[state.st_size, state.st_mtime_ns] for state in states]
    return [images(), binaries, PAUSE, recipe(PROXY_PACKAGES)]


def _import_kubernetes(folder: Path) -> None:
    names, assets = images(), assets_directory()
    with tempfile.TemporaryDirectory(prefix="apiha-images-") as scratch, _containerd(folder) as load:
        tar = Path(scratch) / "image.tar"
        for binary in BINARIES[:-1]:
            archive(tar, names[binary], _layer(f"usr/local/bin/{binary}", assets / binary))
            load(tar)
        root = Path(scratch) / "proxy"
        root.mkdir()
        debootstrap(root, PROXY_PACKAGES)
        shutil.copy2(assets / "kube-proxy", root / "usr/local/bin")
        archive(tar, names["kube-proxy"], _tree(root))
        load(tar)
        source, pause = Path(scratch) / "pause.c", Path(scratch) / "pause"
        source.write_text(PAUSE)
        subprocess.run(["gcc", "-static", "-O2", "-o", pause, source], check=True)
        archive(tar, names["pause"], _layer("pause", pause), ["/pause"])
        load(tar)


@contextlib.contextmanager
def _containerd(root: Path) -> Iterator[Callable[[Path], None]]:
    """A containerd that keeps its things in `root`; gives a function that imports an archive into it."""
    with tempfile.TemporaryDirectory(prefix="apiha-containerd-") as state:
        config = Path(state) / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{root}"\nstate = "{state}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\n  address = "{state}/sock"\n[ttrpc]\n  address = "{state}/sock.ttrpc"\n'
        )
        with (Path(state) / "log").open("wb") as log:
            server = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log)

        def load(tar: Path) -> None:
            command = [
                "ctr",
                "--address",
                f"{state}/sock",
                "--namespace",
                "k8s.io",
                "images",
                "import",
                str(tar),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"ctr images import: {done.stderr}")

        try:
            deadline = time.monotonic() + 30.0
            asked = ["ctr", "--address", f"{state}/sock", "version"]
            while subprocess.run(asked, capture_output=True, check=False).returncode != 0:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"containerd does not start: {(Path(state) / 'log').read_text()[-2000:]}"
                    )
                time.sleep(0.1)
            yield load
        finally:
            server.send_signal(signal.SIGTERM)  # it closes its databases
            server.wait(30.0)


# ---------------------------------------------------------------------------------------------- the updater


def python_base() -> Path:
    """An archive of the image that the Containerfile starts from: Debian's Python, where a registry has `python:…`."""

    def build(folder: Path) -> None:
        root = folder / "root"
        root.mkdir()
        debootstrap(root, PYTHON_PACKAGES)
        for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):  # images of Python have none
            marker.unlink()
        (root / "usr/bin/python").symlink_to("python3")
        # The authorities that this system trusts: its package index may be known to them alone.
        trusted = Path("/etc/ssl/certs/ca-certificates.crt")
        if trusted.exists():
            shutil.copy(trusted, root / "etc/ssl/certs")
        archive(folder / "image.tar", "localhost/python:debian", _tree(root))
        shutil.rmtree(root)

    return cached("kubeadm-python", recipe(PYTHON_PACKAGES), build) / "image.tar"


def build_updater(target: Path) -> None:
    """Build the project's Containerfile, and save the image as an archive. Raises RuntimeError if that fails."""
    storage = cache_folder() / "buildah"
    base = ["buildah", "--root", str(storage), "--runroot", f"{storage}-run", "--storage-driver", "overlay"]
    with tempfile.TemporaryDirectory(prefix="apiha-build-") as scratch:
        pip = Path(scratch) / "pip.conf"
        volumes = [f"--volume={folder}:{folder}:ro" for folder in pip_settings(pip)]
        _run([*base, "pull", f"docker-archive:{python_base()}"])
        arguments = ["--build-arg", "PYTHON_IMAGE=localhost/python:debian", "--tag", UPDATER_IMAGE]
        where = ["--isolation", "chroot", "--network", "host", f"--volume={pip}:/etc/pip.conf:ro", *volumes]
        _run([*base, "build", "--layers", *where, *arguments, str(REPOSITORY)])
        _run([*base, "push", UPDATER_IMAGE, f"docker-archive:{target}:{UPDATER_IMAGE}"])


def pip_settings(target: Path) -> list[str]:
    """Write what pip is told on this system, from wherever, into one file; returns the paths that it names."""
    listed = subprocess.run(
        ["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    sections: dict[str, dict[str, str]] = {}
    paths = set()
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        value = value.strip("'\"").replace("\\n", " ")
        # A variable wins over the files.
        own = sections.setdefault("global" if section == ":env:" else section, {})
        if section == ":env:" or name not in own:
            own[name] = value
        # The files of a folder that is an index lie beside it, as `../files`.
        words = (word.removeprefix("file://").removesuffix("/simple") for word in value.split())
        paths |= {word for word in words if word.startswith("/") and Path(word).exists()}
    text = "\n".join(
        f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
        for section, settings in sections.items()
    )
    target.write_text(text)
    return sorted(paths)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        output = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise RuntimeError(f"{' '.join(command[:8])} … exits {done.returncode}:\n{output}")
