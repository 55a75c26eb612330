"""Which CA a node trusts: kubeconfigs that are odd, and what takes their place."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from apiha.config import Config
from apiha.errors import ConfigError
from apiha.trust import load_ca, read_kubeconfig

PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
GOOD = f"""\
apiVersion: v1
kind: Config
clusters:
- name: kubernetes
  cluster:
    server: https://apiserver.cluster.local:6443
    certificate-authority-data: {base64.b64encode(PEM.encode()).decode()}
contexts:
- name: default
  context: {{cluster: kubernetes, user: kubelet}}
current-context: default
"""
ODD = (
    "x: !!timestamp no time",
    "x: !!int one",
    "x: !!float one",
    "x: !!bool maybe",
    "x: !!binary ü",
    "x: !!python/object:os.system {}",
    "x: 9999-99-99",
    "x: 0001-01-01T00:00:00+23:59",
    "? [a]\n: b",
    "[" * 5000,
    "clusters: 7",
    "clusters: !!set {a, b}",
    "contexts: {a: 1}\nclusters: text",
    "&a [*a]",
    "\x00",
    "- just\n- a list",
    "clusters: [{name: kubernetes, cluster: {certificate-authority: [1]}}]",
    "clusters: [{name: kubernetes, cluster: {certificate-authority-data: {a: 1}}}]",
)


@pytest.mark.parametrize("text", ODD)
def test_an_odd_kubeconfig_is_one_line_or_none_of_our_business(tmp_path: Path, text: str) -> None:
    """Whatever YAML holds, reading gives a kubeconfig or a ConfigError of one line."""
    for content in (text, f"{GOOD}{text}\n"):
        path = tmp_path / "kubelet.conf"
        path.write_text(content)
        said = ""
        try:
            read_kubeconfig(path)
        except ConfigError as error:
            said = str(error)
        assert "\n" not in said
        assert not said or str(tmp_path) in said


@pytest.mark.parametrize("text", ODD)
def test_kubeadms_ca_serves_where_kubelet_conf_does_not(tmp_path: Path, text: str) -> None:
    """A kubelet.conf that cannot be used is a doubt to be warned about, and no reason not to boot."""
    (tmp_path / "kubelet.conf").write_text(text)
    (tmp_path / "ca.crt").write_text(PEM)
    found = load_ca(Config(), kubelet=tmp_path / "kubelet.conf", kubeadm=tmp_path / "ca.crt")
    assert found.pem == PEM
    assert len(found.doubts) <= 1
    (tmp_path / "kubelet.conf").unlink()
    assert load_ca(Config(), kubelet=tmp_path / "kubelet.conf", kubeadm=tmp_path / "ca.crt").doubts == ()


def test_the_ca_of_kubelet_conf(tmp_path: Path) -> None:
    """It is the one that the node's own client trusts; kubeadm's file is not read then."""
    (tmp_path / "kubelet.conf").write_text(GOOD)
    found = load_ca(Config(), kubelet=tmp_path / "kubelet.conf", kubeadm=tmp_path / "missing")
    assert (found.pem, found.source, found.doubts) == (PEM, str(tmp_path / "kubelet.conf"), ())
