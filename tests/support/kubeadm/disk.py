"""The disk that every machine of the cluster starts from: Debian, containerd, kubelet, kubeadm, kubectl, cloud-init.

It is what a node has on which the packages of these were installed and nothing was configured, with four changes for a
machine that shares its kernel with others, each said below.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.support.cache import cached, fingerprint
from tests.support.kube.binaries import assets_directory
from tests.support.machine.filesystem import debootstrap, recipe

PROGRAMS = ("kubelet", "kubeadm", "kubectl")
PACKAGES = (
    *(
        "ca-certificates",
        "cloud-init",
        "conntrack",
        "containerd",
        "containernetworking-plugins",
        "curl",
        "dbus",
    ),
    *("ethtool", "iproute2", "iptables", "kmod", "mount", "nftables", "openssl", "procps", "python3", "runc"),
    "python3-cffi-backend",  # cloud-init needs it by a virtual name, which debootstrap does not resolve
    *("socat", "systemd", "systemd-sysv", "util-linux"),
)

# As the project's own packages word them (kubernetes/release, cmd/krel/templates/latest).
KUBELET_SERVICE = """\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
"""
KUBEADM_CONF = """\
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""  # noqa: E501 (systemd reads it as it stands)

# 1. A container runtime without CAP_SYS_RESOURCE may not lower a process's OOM score.
CONTAINERD_TOML = """\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""

# 2. kubelet would set these for the whole host. It is shown files that say what it wants.
TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
PREPARE_SERVICE = """\
[Unit]
Description=What kubelet needs of a kernel that is not this machine's alone
DefaultDependencies=no
After=local-fs.target
Before=sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/prepare-kernel

[Install]
WantedBy=sysinit.target
"""
# 3. nspawn mounts the machine's own cgroup v1 hierarchies read-only.
PREPARE = """\
#!/bin/sh -e
for hierarchy in /sys/fs/cgroup/*/cgroup.procs; do
    mount -o remount,bind,rw "${hierarchy%/cgroup.procs}" || true
done
mkdir -p /run/kernel
""" + "".join(
    f"echo {value} > /run/kernel/{key.replace('/', '.')}\n"
    f"mount --bind /run/kernel/{key.replace('/', '.')} /proc/sys/{key}\n"
    for key, value in TUNABLES.items()
)

# 4. Nothing that would configure the host's kernel, its network or its devices, or load packages.
MASKED = (
    *("apt-daily-upgrade.timer", "apt-daily.timer", "console-getty.service", "e2scrub_reap.service"),
    *("fstrim.timer", "getty.target", "kmod-static-nodes.service", "modprobe@.service", "nftables.service"),
    *("systemd-modules-load.service", "systemd-networkd.service", "systemd-networkd-wait-online.service"),
    *("systemd-sysctl.service", "systemd-timesyncd.service", "systemd-udev-trigger.service"),
    *("systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "systemd-udevd.service"),
)


def images() -> dict[str, str]:
    """The images that kubeadm uses for its own version, short name to full name: `pause`, `etcd`, `kube-proxy` …"""
    listed = subprocess.run(
        [assets_directory() / "kubeadm", "config", "images", "list", "--kubernetes-version", version()],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return {name.partition(":")[0].rpartition("/")[2]: name for name in listed}


def version() -> str:
    """The version of Kubernetes that the binaries are of, as `v1.36.2`."""
    command = [str(assets_directory() / "kubeadm"), "version", "--output=short"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def disk() -> Path:
    """The pristine disk, made if the cache has none: two minutes, 700 MB. Raises RuntimeError if it cannot be made."""
    base = cached("kubeadm-base", recipe(PACKAGES), lambda folder: debootstrap(folder, PACKAGES))
    programs = [assets_directory() / name for name in PROGRAMS]
    inputs = [base.name, fingerprint([*programs, Path(__file__)])]

    def build(folder: Path) -> None:
        subprocess.run(["cp", "-a", "--reflink=auto", f"{base}/.", folder], check=True)
        provision(folder)

    return cached("kubeadm-disk", inputs, build)


def provision(root: Path) -> None:
    """Install what comes from no Debian package, and switch off what does not suit a machine in a container."""
    units = root / "etc/systemd/system"
    for name in PROGRAMS:
        shutil.copy2(assets_directory() / name, root / "usr/bin" / name)
    _write(root / "usr/lib/systemd/system/kubelet.service", KUBELET_SERVICE)
    _write(root / "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", KUBEADM_CONF)
    (root / "etc/kubernetes/manifests").mkdir(parents=True)  # as kubelet's package does
    _write(units / "prepare-kernel.service", PREPARE_SERVICE)
    _write(root / "usr/local/sbin/prepare-kernel", PREPARE, mode=0o755)
    _write(root / "etc/containerd/config.toml", CONTAINERD_TOML.format(pause=images()["pause"]))
    journald = "[Journal]\nReadKMsg=no\nStorage=persistent\nSystemMaxUse=200M\nRateLimitIntervalSec=0\n"
    _write(root / "etc/systemd/journald.conf.d/test.conf", journald)
    # containerd's shims outlive SIGTERM: a node that is shut down without a drain waits for them, by default 90 s.
    _write(root / "etc/systemd/system.conf.d/test.conf", "[Manager]\nDefaultTimeoutStopSec=10s\n")
    for unit, target in (
        ("kubelet", "multi-user"),
        ("containerd", "multi-user"),
        ("prepare-kernel", "sysinit"),
    ):
        found = "etc" if (units / f"{unit}.service").exists() else "usr/lib"
        _link(units / f"{target}.target.wants/{unit}.service", f"/{found}/systemd/system/{unit}.service")
    for unit in MASKED:
        _link(units / unit, "/dev/null")
    _write(root / "etc/cloud/cloud-init.disabled", "")  # until a test seeds the machine


def seed_cloud_init(root: Path, user_data: str, name: str) -> None:
    """Let the machine with the disk `root` find `user_data` as a cloud would give it (the data source NoCloud)."""
    (root / "etc/cloud/cloud-init.disabled").unlink(missing_ok=True)
    _write(root / "etc/cloud/ds-identify.cfg", "policy: enabled\n")
    # Of the modules that configure a whole machine the one that the pages use: others want packages and a network.
    settings = "datasource_list: [NoCloud]\nnetwork: {config: disabled}\ncloud_config_modules: [runcmd]\n"
    _write(root / "etc/cloud/cloud.cfg.d/99-test.cfg", settings)
    seed = root / "var/lib/cloud/seed/nocloud"
    _write(seed / "meta-data", json.dumps({"instance-id": f"{name}-1", "local-hostname": name}))
    _write(seed / "user-data", user_data)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
