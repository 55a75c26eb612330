"""The server in kubelet.conf: found where kubelet finds it, exchanged without touching another byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from apiha.install.kubeconfig import server_of, with_server, without_secrets
from apiha.trust import read_kubeconfig
from tests.support.control_plane import Authority
from tests.support.joined import as_json, kubeconfig

OLD, NEW = "https://10.0.0.11:6443", "https://apiserver.cluster.local:6443"
MINIMAL = "clusters: [{name: a, cluster: {server: SERVER}}]\ncontexts: [{name: c, context: {cluster: a}}]\n"


@pytest.fixture(scope="module")
def kubeadm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A kubelet.conf as kubeadm writes it."""
    return kubeconfig(Authority(tmp_path_factory.mktemp("pki")), OLD)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: "# caf\u00e9 \U0001f600\n---\n" + text.rstrip("\n"),
        lambda text: text.replace(f"server: {OLD}", f'server:   "{OLD}"   # the first one'),
        lambda text: text.replace(f"server: {OLD}", f"'server': '{OLD}'"),
        as_json,
    ],
    ids=["kubeadm", "CRLF", "BOM", "comments", "double quotes", "single quotes", "JSON"],
)
def test_only_the_value_changes(kubeadm: str, change: Callable[[str], str], tmp_path: Path) -> None:
    """Every byte before and behind it stays, the quotes too; and back again it is the very same file."""
    text = change(kubeadm)
    changed = with_server(text, NEW)
    before, _, after = text.partition(OLD)
    assert changed == before + NEW + after
    assert server_of(changed) == NEW
    assert with_server(changed, OLD) == text
    path = tmp_path / "kubelet.conf"
    path.write_bytes(changed.encode())
    if not text.startswith("\ufeff"):
        assert read_kubeconfig(path).server == NEW


def test_the_cluster_of_the_current_context_is_meant() -> None:
    """Other clusters keep their servers, equal ones too."""
    text = (
        "clusters:\n- name: a\n  cluster: {server: https://x:1}\n- name: b\n  cluster: {server: https://x:1}\n"
        "contexts:\n- name: one\n  context: {cluster: a}\n- name: two\n  context: {cluster: b}\n"
        "current-context: two\n"
    )
    assert yaml.safe_load(with_server(text, NEW))["clusters"] == [
        {"name": "a", "cluster": {"server": "https://x:1"}},
        {"name": "b", "cluster": {"server": NEW}},
    ]


def test_without_a_current_context_the_only_one_counts() -> None:
    """As apiha reads kubeconfigs elsewhere."""
    assert server_of(MINIMAL.replace("SERVER", OLD)) == OLD
    assert server_of(with_server(MINIMAL.replace("SERVER", OLD), NEW)) == NEW


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no server"),
        ("[]", "no server"),
        ("{", "expected"),
        ("clusters: 1\ncontexts: {}\n", "no server"),
        (MINIMAL.replace("SERVER", "[1]"), "no server"),
        (MINIMAL.replace("server: SERVER", "other: 1"), "no server"),
        ("x: &s https://a:1\n" + MINIMAL.replace("SERVER", "*s"), "cannot be changed without"),
        (
            "clusters:\n- name: a\n  cluster:\n    server: >-\n      https://a:1\n"
            "contexts: [{name: c, context: {cluster: a}}]\n",
            "a block of text",
        ),
    ],
)
def test_what_cannot_be_changed_alone_is_left(text: str, words: str) -> None:
    """It says why."""
    with pytest.raises(ValueError, match=words):
        with_server(text, NEW)


@pytest.mark.parametrize("form", [lambda text: text, as_json], ids=["YAML", "JSON"])
def test_a_diff_shows_no_secret(kubeadm: str, form: Callable[[str], str]) -> None:
    """The key goes; the rest, which says what changes, stays."""
    text = form(kubeadm)
    key = yaml.safe_load(text)["users"][0]["user"]["client-key-data"]
    shown = without_secrets(text.encode()).decode()
    assert key in text
    assert key not in shown
    assert OLD in shown
