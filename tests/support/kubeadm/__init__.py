"""A genuine kubeadm cluster: machines that boot Debian, kubelet and containerd, with every image at hand.

`cluster.Lab` has the machines and what is done with them; `pages` takes the commands from the documentation. Disks and
images are made once and kept in `tests.support.cache` (3 GB): a machine's disk is a second's copy of them.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil

from tests.support.kube.binaries import assets_directory
from tests.support.machine import missing as machine_missing

_BINARIES = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler"),
    *("kubeadm", "kubectl", "kubelet"),
)
_TOOLS = {
    **{"containerd": "containerd", "ctr": "containerd", "runc": "runc", "buildah": "buildah"},
    **{
        "gcc": "gcc",
        "go": "golang-go",
    },  # for a process that only sleeps, and a client that dials as kubelet does
}


@functools.cache
def missing() -> str | None:
    """Why there can be no such cluster here, or None if there can."""
    directory = assets_directory()
    binaries = [name for name in _BINARIES if not os.access(directory / name, os.X_OK)]
    if binaries:
        return f"needs {', '.join(binaries)} in {directory}: put them there from a Kubernetes release and an etcd one"
    packages = sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None})
    if packages:
        return f"needs containers and compilers: apt-get install {' '.join(packages)}"
    if platform.machine() != "x86_64":
        return f"makes its container images for x86_64, and this is {platform.machine()}"
    return machine_missing()
