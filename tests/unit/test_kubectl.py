"""The cluster, asked through kubectl: what comes of answers that kubectl does not give every day."""

from __future__ import annotations

from pathlib import Path

import pytest

from apiha.errors import ApihaError, ConfigError, NoControlPlane
from apiha.kubectl import Kubectl


def kubectl(folder: Path, prints: str) -> Kubectl:
    """One that prints this, whatever it is asked."""
    program = folder / "kubectl"
    program.write_text(f"#!/bin/sh\nprintf '%b' '{prints}'\n")
    program.chmod(0o755)
    return Kubectl(None, str(program), purpose="user-data")


@pytest.mark.parametrize(
    "prints", ["<html>Log in</html>", "", "\\0377", "[" * 100_000], ids=["html", "nothing", "bytes", "deep"]
)
def test_an_answer_that_is_not_json_is_one_line(tmp_path: Path, prints: str) -> None:
    """A proxy that answers in the API server's place, say."""
    with pytest.raises(NoControlPlane, match="user-data: kubectl: the answer is not JSON") as caught:
        kubectl(tmp_path, prints).get("/version")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("data", ["%%%", "/w=="], ids=["not-base64", "not-text"])
def test_a_ca_of_the_kubeconfig_that_cannot_be_read_is_one_line(tmp_path: Path, data: str) -> None:
    """kubectl prints what stands in the file."""
    view = f'{{"clusters": [{{"cluster": {{"certificate-authority-data": "{data}"}}}}]}}'
    with pytest.raises(ConfigError, match="certificate-authority-data"):
        kubectl(tmp_path, view).ca_of_kubeconfig()


def test_a_kubectl_that_cannot_be_run_is_one_line(tmp_path: Path) -> None:
    """There is none, or it is not a program."""
    with pytest.raises(ConfigError, match="kubectl is not in PATH"):
        Kubectl(None, str(tmp_path / "absent"), purpose="user-data").get("/version")
    program = tmp_path / "kubectl"
    program.write_text("")
    with pytest.raises(ApihaError, match="cannot run kubectl: Permission denied"):
        Kubectl(None, str(program), purpose="user-data").get("/version")
