"""`apiha user-data` as a process beside a stand-in for kubectl; what it prints, read by the programs it is for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cli import Cluster
from tests.support.joined import service
from tests.support.kubectl import StandInKubectl
from tests.support.probing import StartPlane

SHA256 = "0123456789abcdef" * 4
BY_URL = ("--program-url", "https://artifacts.example.com/apiha.pyz", "--program-sha256", SHA256)
CA = "/api/v1/namespaces/default/configmaps/kube-root-ca.crt"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
SERVICE = "/api/v1/services"
INFO = "/api/v1/namespaces/kube-public/configmaps/cluster-info"

needs_schema = pytest.mark.skipif(
    shutil.which("cloud-init") is None, reason="needs cloud-init: apt-get install cloud-init (.ci/run does)"
)
needs_validate = pytest.mark.skipif(
    shutil.which("ignition-validate") is None,
    reason="needs ignition-validate: apt-get install ignition (.ci/run does)",
)


def slices(*addresses: str, port: int = 6443) -> dict[str, Any]:
    return {
        "items": [
            {
                "addressType": "IPv4",
                "endpoints": [{"addresses": [each], "conditions": {"ready": True}} for each in addresses],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            }
        ]
    }


def cluster_info(server: str = "https://apiserver.cluster.local:6443") -> dict[str, Any]:
    return {
        "data": {"kubeconfig": yaml.safe_dump({"clusters": [{"name": "", "cluster": {"server": server}}]})}
    }


class Admin:
    """A machine with kubectl and an administrator's kubeconfig, on which `apiha user-data` is run."""

    def __init__(self, folder: Path, ca: str) -> None:
        self.folder = folder
        self.kubectl = StandInKubectl(folder / "bin")
        self.kubectl.objects = {
            CA: {"data": {"ca.crt": ca}},
            SLICES: slices("127.0.1.11", "127.0.1.12", "127.0.1.13"),
            SERVICE: {"items": [service("10.96.0.100")]},
            INFO: cluster_info(),
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        self.kubectl.tell()
        environment = {
            "PATH": str(self.kubectl.folder),
            "HOME": str(self.folder),
            # The administrator may sit on a node: what this machine is set up with is not the new node's.
            "APIHA_CONFIG": "/nowhere/config.yaml",
            "APIHA_ROLE": "control-plane",
            "APIHA_VIP": "10.99.99.99",
            **{key: os.environ[key] for key in ("COVERAGE_PROCESS_START",) if key in os.environ},
        }
        command = [sys.executable, "-m", "apiha", "user-data", *arguments]
        root = str(Path(__file__).resolve().parents[2])
        return subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)

    def printed(self, *arguments: str) -> str:
        """What it prints; it must not fail."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def archive(self) -> Path:
        """A file of the shape of `apiha.pyz`."""
        path = self.folder / "apiha.pyz"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("apiha/__init__.py", "")
        path.write_bytes(b"#!/usr/bin/env python3\n" + path.read_bytes())
        return path


@pytest.fixture
def admin(tmp_path: Path, cluster: Cluster) -> Admin:
    """An administrator of a cluster that has all there is to find, at addresses where nobody answers."""
    return Admin(tmp_path, cluster.authority.ca_pem)


# ------------------------------------------------------------------------------------------------- what is found


def test_it_finds_what_a_node_has_to_know(admin: Admin) -> None:
    """Control planes, VIP and CA are those of the cluster; stderr says where each was found."""
    done = admin.run("--print", "config")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout) == {
        "control_plane": ["127.0.1.11", "127.0.1.12", "127.0.1.13"],
        "vip": "10.96.0.100",
        "ca_file": "/etc/apiha/ca.crt",
    }
    for source in (
        "Service default/kubernetes",
        "Service kube-system/apiserver",
        "kube-root-ca.crt",
    ):
        assert source in done.stderr
    assert admin.printed("--print", "ca") == admin.kubectl.objects[CA]["data"]["ca.crt"]


def test_what_is_given_goes_before_what_is_found(admin: Admin) -> None:
    """Nothing is asked that is not needed: a hardware load balancer needs no Service."""
    del admin.kubectl.objects[SERVICE], admin.kubectl.objects[SLICES]
    flags = ("--vip", "192.0.2.100", "--control-plane", "127.0.1.1,127.0.1.2", "--fail-fast", "off")
    assert yaml.safe_load(admin.printed("--print", "config", *flags)) == {
        "control_plane": ["127.0.1.1", "127.0.1.2"],
        "vip": "192.0.2.100",
        "ca_file": "/etc/apiha/ca.crt",
        "fail_fast": "off",
    }


def test_another_port_is_found_and_written_once(admin: Admin) -> None:
    """The Service's port becomes `port`; control planes on the same one carry none."""
    admin.kubectl.objects[SLICES] = slices("127.0.1.11", port=7443)
    admin.kubectl.objects[SERVICE] = {"items": [service("10.96.0.100", port=7443)]}
    config = yaml.safe_load(admin.printed("--print", "config"))
    assert (config["port"], config["control_plane"]) == (7443, ["127.0.1.11"])


def test_a_certificate_without_the_name_is_a_warning(admin: Admin, start_plane: StartPlane) -> None:
    """A node would trust no such control plane; that is said before there is one."""
    plane = start_plane("wrong_name", "127.0.0.11")
    done = admin.run("--print", "config", "--control-plane", f"127.0.0.11:{plane.port}")
    assert done.returncode == 0, done.stderr
    assert "warning: control plane 127.0.0.11" in done.stderr
    assert "certSANs" in done.stderr


# ---------------------------------------------------------------------------------------------------------- joining


def test_the_token_is_made_and_said(admin: Admin) -> None:
    """One Secret; stderr says that the output holds a token, until when, and how to undo it, but not the token."""
    done = admin.run("--join", "--token-ttl", "2h", *BY_URL)
    assert done.returncode == 0, done.stderr
    (secret,) = admin.kubectl.created
    data = secret["stringData"]
    token = f"{data['token-id']}.{data['token-secret']}"
    (join,) = [line for line in yaml.safe_load(done.stdout)["runcmd"] if line.startswith("kubeadm join")]
    assert join.startswith(
        f"kubeadm join apiserver.cluster.local:6443 --token {token} --discovery-token-ca-cert-hash"
    )
    assert f"delete secret bootstrap-token-{data['token-id']}" in done.stderr
    assert data["token-secret"] not in done.stderr
    assert f"{data['expiration'][:10]} {data['expiration'][11:16]} UTC" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--print", "config"), ("--print", "ca"), ("--print", "units"), BY_URL]
)
def test_no_token_is_made_that_nobody_reads(admin: Admin, arguments: tuple[str, ...]) -> None:
    """A piece without a join makes none, even with --join; nor does anything without --join."""
    admin.printed(*arguments, *(("--join",) if arguments != BY_URL else ()))
    assert admin.kubectl.created == []


def test_a_cluster_info_with_another_address_is_a_warning(admin: Admin) -> None:
    """kubelet on the node would use that address, and not the name."""
    admin.kubectl.objects[INFO] = cluster_info("https://10.0.0.11:6443")
    done = admin.run("--join", *BY_URL)
    assert done.returncode == 0, done.stderr
    assert "cluster-info names https://10.0.0.11:6443" in done.stderr


# --------------------------------------------------------------------------------------------------------- mistakes

FORBIDDEN = 'Error from server (Forbidden): secrets is forbidden: User "x" cannot create resource "secrets"'


@pytest.mark.parametrize(
    ("arguments", "changes", "code", "says"),
    [
        ((), {}, 2, "how does apiha come onto the node?"),
        (("--in-image", *BY_URL), {}, 2, "Give one of"),
        (BY_URL[:2], {}, 2, "go together"),
        ((*BY_URL[:2], "--program-sha256", "12"), {}, 2, "64 hexadecimal digits"),
        (("--program-url", "ftp://x", *BY_URL[2:]), {}, 2, "not an http or https URL"),
        (("--in-image", "--role", "control-plane"), {}, 2, "for workers only"),
        (("--print", "runcmd", "--format", "ignition", "--in-image"), {}, 2, "--print units"),
        (("--in-image", "--token-ttl", "1s"), {}, 2, "too short"),
        (("--in-image", "--vip", "x"), {}, 5, "not an IPv4 or IPv6 address"),
        (("--in-image", "--kubeconfig", "/nowhere"), {}, 5, "cannot read a kubeconfig"),
        (("--embed", "/nowhere"), {}, 5, "cannot read it"),
        (("--in-image",), {SERVICE: {"items": []}}, 5, "apply `apiha manifests` first"),
        (("--in-image",), {SERVICE: {"items": [service("None")]}}, 5, "apply `apiha manifests` first"),
        (("--in-image",), {SLICES: {"items": []}}, 5, "no ready control plane"),
        (("--in-image",), {CA: None}, 5, "neither the ConfigMap"),
        (("--in-image",), {CA: {"data": {"ca.crt": "x"}}}, 5, "no usable CA certificate"),
        (("--in-image", "--join"), {INFO: None}, 5, "cluster-info does not exist"),
        (("--in-image", "--join"), {"create": FORBIDDEN}, 6, "cannot be created"),
        (("--in-image",), {"get": "The connection to the server 10.0.0.1 was refused"}, 3, "was refused"),
        (("--in-image",), {SERVICE: FORBIDDEN}, 6, "cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line_and_a_code(
    admin: Admin, arguments: tuple[str, ...], changes: dict[str, Any], code: int, says: str
) -> None:
    """Nothing is printed that a cloud could be given, and no token is left."""
    for key, change in changes.items():
        admin.kubectl.objects.pop(key, None)
        if isinstance(change, str):
            admin.kubectl.refused[key] = change
        elif change is not None:
            admin.kubectl.objects[key] = change
    done = admin.run(*arguments)
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert (done.returncode, done.stdout, len(errors)) == (code, "", 1), done.stderr
    assert says in errors[0]
    assert admin.kubectl.created == []


def test_a_machine_without_kubectl_is_told_so(admin: Admin) -> None:
    """Exit code 5, and the command's own name in front."""
    (admin.kubectl.folder / "kubectl").unlink()
    done = admin.run("--in-image")
    assert (done.returncode, done.stdout) == (5, "")
    assert "user-data: kubectl is not in PATH" in done.stderr


def test_an_embedded_program_is_said_to_be_too_big(admin: Admin) -> None:
    """With the limits of the clouds that do not take it."""
    with zipfile.ZipFile(admin.archive(), "a") as file:
        file.writestr("noise", os.urandom(20_000))
    done = admin.run("--embed", str(admin.folder / "apiha.pyz"))
    assert done.returncode == 0, done.stderr
    assert "EC2 takes 16 KiB" in done.stderr
    assert "Google" not in done.stderr


# -------------------------------------------------------------------------------------- read by those it is for


def variants(admin: Admin) -> list[tuple[str, ...]]:
    """Every way to bring the program, with all that can be asked for."""
    return [
        (*BY_URL, "--join", "--kubelet-http2"),
        ("--embed", str(admin.archive()), "--join"),
        ("--in-image", "--join"),
    ]


@needs_schema
def test_cloud_inits_own_schema_takes_it(admin: Admin) -> None:
    """`cloud-init schema` finds no error and nothing deprecated."""
    path = admin.folder / "user-data"
    for arguments in variants(admin):
        path.write_text(admin.printed(*arguments))
        done = subprocess.run(
            ["cloud-init", "schema", "--config-file", path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "deprecat" not in (done.stdout + done.stderr).lower()
    path.write_text("#cloud-config\nwrite_files: 1\n")  # so that it is known to find something
    assert subprocess.run(
        ["cloud-init", "schema", "--config-file", path], capture_output=True, check=False
    ).returncode


@needs_validate
def test_ignitions_own_validator_takes_it(admin: Admin) -> None:
    """`ignition-validate` has nothing to say, not even a warning."""
    path = admin.folder / "node.ign"
    for arguments in variants(admin):
        path.write_text(admin.printed(*arguments, "--format", "ignition"))
        done = subprocess.run(["ignition-validate", path], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    path.write_text(json.dumps({"ignition": {"version": "3.3.0"}, "storage": {"files": [{"path": "x"}]}}))
    assert subprocess.run(["ignition-validate", path], capture_output=True, check=False).returncode != 0
