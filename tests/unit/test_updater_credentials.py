"""Who the updater is: read from files, and read again when they change."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from apiha.endpoint import Endpoint
from apiha.errors import ConfigError
from apiha.probe import Health
from apiha.updater.credentials import CredentialFiles, CurrentProber
from tests.support.control_plane import DEFAULT_HOST, Authority, ControlPlane


def write(path: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    """A kubeconfig."""
    context = {"cluster": "c", "user": "u"}
    document = {
        "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.9:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": context}],
    }
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A cluster's CA."""
    return Authority(tmp_path / "pki")


def pod(folder: Path, authority: Authority, token: str = "one") -> CredentialFiles:
    """What a Pod finds."""
    folder.mkdir()
    (folder / "token").write_text(f"{token}\n")
    (folder / "ca.crt").write_text(authority.ca_pem)
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    return CredentialFiles(None, folder=folder, environ=environ)


def test_a_kubeconfig_with_files_and_one_with_everything_inside(tmp_path: Path, authority: Authority) -> None:
    """Relative names are relative to the kubeconfig; a tokenFile goes before a token, as in client-go."""
    mine = authority.issue_client()
    inside = {
        "certificate-authority-data": base64.b64encode(authority.ca_pem.encode()).decode(),
        "tls-server-name": "apiserver.cluster.local",
    }
    user = {
        "client-certificate-data": base64.b64encode(mine.cert.read_bytes()).decode(),
        "client-key-data": base64.b64encode(mine.key.read_bytes()).decode(),
    }
    found = CredentialFiles(write(tmp_path / "one", inside, user)).current
    assert (found.server, found.server_name) == ("https://192.0.2.9:6443", "apiserver.cluster.local")
    assert found.token is None
    assert found.client_key == mine.key.read_text()
    (tmp_path / "token").write_text("from the file\n")
    named = {"certificate-authority": "pki/ca.crt", "proxy-url": "http://127.0.0.1:3128"}
    found = CredentialFiles(write(tmp_path / "two", named, {"token": "x", "tokenFile": "token"})).current
    assert found.bearer() == {"Authorization": "Bearer from the file"}
    assert (found.ca, found.proxy) == (authority.ca_pem, "http://127.0.0.1:3128")


def test_a_pod_finds_itself(tmp_path: Path, authority: Authority) -> None:
    """Its API server by the environment, its token and CA by the folder that kubelet fills."""
    found = pod(tmp_path / "sa", authority).current
    assert (found.server, found.token) == ("https://10.96.0.1:443", "one")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert (
        CredentialFiles(None, folder=tmp_path / "sa", environ=environ).current.server
        == "https://[fd00::1]:443"
    )


@pytest.mark.parametrize(
    ("cluster", "user", "words"),
    [
        ({}, {"exec": {"command": "x"}}, "authenticates with exec, which the updater does not support"),
        ({}, {"username": "a", "password": "b"}, "authenticates with username"),
        ({"server": "http://192.0.2.9"}, {}, "expected https://"),
        ({"server": ""}, {}, "not set"),
        ({"server": "https://[fd00::1"}, {}, "expected https://"),
        ({"certificate-authority": ""}, {}, "no certificate-authority"),
        ({"certificate-authority": "absent"}, {}, "absent: cannot read"),
        ({"certificate-authority": "garbage"}, {}, "holds no usable CA"),
        ({"proxy-url": "socks5://192.0.2.1"}, {}, "proxy-url"),
        ({"proxy-url": "http://[fd00::1"}, {}, "proxy-url"),
        ({"proxy-url": "http://192.0.2.1", "tls-server-name": "x"}, {}, "tls-server-name"),
        ({}, {"tokenFile": "absent"}, "absent: cannot read the token"),
        ({}, {"tokenFile": "two-lines"}, "not a token"),
        ({}, {"token": "gehörtniemandem"}, "not a token"),
        ({}, {"client-certificate": "garbage"}, "does not load"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, authority: Authority, cluster: dict[str, Any], user: dict[str, Any], words: str
) -> None:
    """It names the file, what is wrong and what was expected."""
    (tmp_path / "garbage").write_text("garbage")
    (tmp_path / "two-lines").write_text("a\nb")
    path = write(tmp_path / "config", {"certificate-authority": str(authority.ca_file), **cluster}, user)
    with pytest.raises(ConfigError, match=words) as caught:
        CredentialFiles(path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "/proc/self/fd" not in str(caught.value)


def test_outside_of_a_cluster_a_kubeconfig_is_asked_for(tmp_path: Path) -> None:
    """Nothing else to go by."""
    with pytest.raises(ConfigError, match="expected --kubeconfig"):
        CredentialFiles(None, folder=tmp_path, environ={})


def test_a_token_that_kubelet_replaced_is_used(tmp_path: Path, authority: Authority) -> None:
    """By renaming a symlink to a folder, as kubelet does; until then the object stays the same."""
    data = tmp_path / "data-1"
    files = pod(data, authority)
    link = tmp_path / "sa"
    link.symlink_to("data-1")
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    files = CredentialFiles(None, folder=link, environ=environ)
    before = files.current
    assert files.current is before
    pod(tmp_path / "data-2", authority, "two")
    (tmp_path / "new").symlink_to("data-2")
    (tmp_path / "new").rename(link)
    assert files.current.token == "two"
    # Other files with the same contents are no news: connections need not be made anew.
    held = files.current
    os.utime(tmp_path / "data-2" / "token", (1, 1))
    assert files.current is held


def test_a_certificate_whose_key_lags_is_reported_and_the_old_one_stays(
    tmp_path: Path, authority: Authority
) -> None:
    """Until both are new; a kubeconfig that is gone for a moment is the same."""
    one, two = authority.issue_client(), authority.issue_client()
    cert, key = tmp_path / "c.crt", tmp_path / "c.key"
    cert.write_bytes(one.cert.read_bytes())
    key.write_bytes(one.key.read_bytes())
    path = write(
        tmp_path / "config",
        {"certificate-authority": str(authority.ca_file)},
        {"client-certificate": "c.crt", "client-key": "c.key"},
    )
    problems: list[str | None] = []
    files = CredentialFiles(path, on_problem=problems.append)
    before = files.current
    cert.write_bytes(two.cert.read_bytes())
    for _ in range(3):
        assert files.current is before
    assert len(problems) == 1
    assert "does not load" in str(problems[0])
    key.write_bytes(two.key.read_bytes())
    assert files.current.client_cert == two.cert.read_text()
    assert problems[1:] == [None]
    text = path.read_text()
    path.unlink()
    held = files.current
    assert "cannot read" in str(problems[-1])
    path.write_text(text)
    assert files.current is held
    assert problems[-1] is None


def test_probes_follow_a_rotated_ca_and_token(tmp_path: Path, authority: Authority) -> None:
    """From the next probe on; what the old CA signed is then no longer trusted."""
    other = Authority(tmp_path / "other")
    files = pod(tmp_path / "sa", authority)
    probe = CurrentProber(files, DEFAULT_HOST, 20.0)
    with (
        ControlPlane(authority, "127.0.0.1") as old,
        ControlPlane(other, "127.0.0.1") as new,
    ):
        endpoints = [Endpoint("127.0.0.1", plane.port) for plane in (old, new)]
        assert [probe(e).health for e in endpoints] == [Health.READY, Health.UNTRUSTED]
        (tmp_path / "sa" / "ca.crt").write_text(authority.ca_pem + other.ca_pem)
        assert [probe(e).health for e in endpoints] == [Health.READY, Health.READY]
        (tmp_path / "sa" / "token").write_text("two")
        (tmp_path / "sa" / "ca.crt").write_text(other.ca_pem)
        assert [probe(e).health for e in endpoints] == [Health.UNTRUSTED, Health.READY]
        assert new.counters.requests[-1].headers["authorization"] == "Bearer two"


def test_to_a_server_that_need_not_prove_itself_no_probe_shows_who_we_are(
    tmp_path: Path, authority: Authority
) -> None:
    """Neither the token nor the certificate."""
    mine = authority.issue_client()
    user = {"token": "secret", "client-certificate": str(mine.cert), "client-key": str(mine.key)}
    path = write(tmp_path / "config", {"insecure-skip-tls-verify": True}, user)
    with ControlPlane(authority, "127.0.0.1", behaviour="client_certificate") as plane:
        result = CurrentProber(CredentialFiles(path), "x", 20.0)(Endpoint("127.0.0.1", plane.port))
        assert result.health is Health.ALIVE
        assert "authorization" not in plane.counters.requests[0].headers
        assert plane.counters.client_certificates == []
