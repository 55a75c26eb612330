"""Where things are on a node. Every absolute path that apiha reads or writes by itself is named here, once."""

from __future__ import annotations

from pathlib import Path

HOSTS_FILE = Path("/etc/hosts")
CONFIG_FILE = Path("/etc/apiha/config.yaml")
STATE_DIR = Path(
    "/var/lib/apiha"
)  # root's alone: the lock, the learned control planes, the record of `install`
MACHINE_ID = Path("/etc/machine-id")  # machine-id(5)
KUBELET_KUBECONFIG = Path("/etc/kubernetes/kubelet.conf")  # where kubeadm writes it
KUBEADM_CA = Path("/etc/kubernetes/pki/ca.crt")
SYSTEMD_RUNS = Path("/run/systemd/system")  # there exactly where systemd is PID 1: sd_booted(3)
UNIT_DIR = Path("/etc/systemd/system")  # the administrator's: a package manager would use /usr/lib
PROGRAM = Path("/usr/local/bin/apiha")  # where apiha.pyz copies itself, and what the units name
INSTALL_RECORD = STATE_DIR / "install.json"  # what `install` wrote
INSTALLED_FROM = STATE_DIR / "installed-from"  # the SHA-256 of the apiha.pyz that the installer's Pod brought
PACKAGED_PROGRAM = Path("/usr/bin/apiha")  # where a package of the distribution puts the program
PACKAGED_UNIT_DIR = Path("/usr/lib/systemd/system")  # and its units: systemd.unit(5)
KUBELET_RECORD = STATE_DIR / "kubelet.json"  # the server that kubelet.conf named before `install --kubelet`
