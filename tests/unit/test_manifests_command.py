"""`apiha manifests` as a process: what goes to stdout, what to stderr, and the exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import apiha
from apiha.manifests.render import checked_values, one_stream, render

IMAGE = "registry.example.com/apiha:1.2.3"
HOST = "apiserver.cluster.local"


def run(*arguments: str, path: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("APIHA_")}
    environment |= variables | ({"PYTHONPATH": path} if path else {})
    command = [sys.executable, "-m", "apiha", "--config", os.devnull, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def expected(*vips: str, host: str = HOST, port: int = 6443, namespace: str = "kube-system") -> str:
    return one_stream(render(checked_values(IMAGE, vips, namespace, host, port)).values())


def test_it_prints_the_manifests_and_nothing_else() -> None:
    """stdout is the YAML stream; stderr is empty."""
    answer = run("manifests", "--vip", "10.96.0.100", "--image", IMAGE)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == expected("10.96.0.100")


def test_settings_come_from_flags_and_the_environment() -> None:
    """Its own flags, those of the group and the environment lead to the same manifests."""
    wanted = expected("10.96.0.7", host="api.example.com", port=7443, namespace="infra")
    flags = ["--vip", "10.96.0.7", "--host", "api.example.com", "--port", "7443"]
    own = ["manifests", "--image", IMAGE, "--namespace", "infra"]
    environment = {"APIHA_VIP": "10.96.0.7", "APIHA_HOST": "api.example.com", "APIHA_PORT": "7443"}
    assert run(*own, *flags).stdout == wanted
    assert run(*flags, *own).stdout == wanted
    assert run(*own, **environment).stdout == wanted
    assert run(*own, "--vip", "10.96.0.7", **{**environment, "APIHA_VIP": "10.96.0.8"}).stdout == wanted


def test_the_namespace_comes_with_a_flag() -> None:
    """Without it there is none in the output, so that `kubectl delete` leaves the namespace alone."""
    arguments = ["manifests", "--vip", "10.96.0.100", "--image", IMAGE, "--namespace", "infra"]
    assert "kind: Namespace\n" not in run(*arguments).stdout
    made = run(*arguments, "--create-namespace").stdout
    assert "kind: Namespace\n" in made.split("---\n")[0]
    assert made.endswith(expected("10.96.0.100", namespace="infra"))


def test_somebody_elses_files_are_refused_in_one_line(tmp_path: Path) -> None:
    """--output-dir into a folder that has such a file already."""
    (tmp_path / "service.yaml").write_text("mine")
    answer = run("manifests", "--vip", "10.96.0.100", "--image", IMAGE, "--output-dir", str(tmp_path))
    assert (answer.returncode, answer.stdout, len(answer.stderr.splitlines())) == (5, "", 1)
    assert "service.yaml was not written by apiha" in answer.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["service.yaml"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (
            ["--vip", "api.example.com", "--image", IMAGE],
            5,
            "--vip: 'api.example.com' is not an IPv4 or IPv6 address",
        ),
        (["--image", IMAGE], 5, "--vip: not set"),
        (["--vip", "10.96.0.100", "--image", "NO"], 5, "--image: 'NO' is not an image reference"),
        (["--vip", "10.96.0.100", "--image", IMAGE, "--namespace", "a.b"], 5, "--namespace: 'a.b'"),
        (["--vip", "10.96.0.100", "--image", IMAGE, "--host", "a b"], 5, "'a b' is not a host name"),
        (["--vip", "10.96.0.100", "--image", IMAGE, "--port", "0"], 5, "is not a port"),
        (["--vip", "10.96.0.100"], 2, "--image"),
        (["--vip", "10.96.0.100", "--image", IMAGE, "--kubeconfig", "x"], 2, "--kubeconfig is for --dry-run"),
        (
            ["--vip", "10.96.0.100", "--image", IMAGE, "--dry-run", "--output-dir", "x"],
            2,
            "--dry-run writes nothing",
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_a_code(arguments: list[str], code: int, says: str) -> None:
    """Nothing is printed that could be piped into kubectl."""
    answer = run("manifests", *arguments)
    assert (answer.returncode, answer.stdout) == (code, "")
    assert says in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_the_templates_are_found_inside_an_archive(tmp_path: Path) -> None:
    """`apiha.pyz` is a zip file: the templates are read from where the code is."""
    package = Path(apiha.__file__).parent
    archive = tmp_path / "apiha.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for source in package.rglob("*"):
            if source.suffix in (".py", ".yaml"):
                file.write(source, source.relative_to(package.parent))
    code = (
        f"import sys; sys.path.insert(0, {str(archive)!r}); import apiha; from apiha.cli.main import main; "
    )
    code += f"assert {str(archive)!r} in apiha.__file__; main()"
    command = [sys.executable, "-c", code, "manifests", "--vip", "10.96.0.100", "--image", IMAGE]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == expected("10.96.0.100")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--remove"], "--remove is for --installer"),
        (["--max-unavailable", "2"], "--max-unavailable is for --installer"),
        (["--installer", "--dashboard"], "--dashboard is not for --installer"),
        (["--installer", "--create-namespace"], "--create-namespace is not for --installer"),
    ],
)
def test_options_of_the_other_kind_are_refused(arguments: list[str], says: str) -> None:
    """An option that would change nothing is a mistake."""
    answer = run("manifests", "--vip", "10.96.0.100", "--image", IMAGE, *arguments)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert says in answer.stderr


def test_the_installer_is_printed_alone() -> None:
    """So that deleting it takes nothing else along; to remove it takes no VIP."""
    answer = run(
        "manifests", "--vip", "10.96.0.100", "--image", IMAGE, "--installer", "--control-plane", "10.0.0.11"
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    (found,) = yaml.safe_load_all(answer.stdout)
    assert found["kind"] == "DaemonSet"
    assert "--control-plane=10.0.0.11" in found["spec"]["template"]["spec"]["containers"][0]["args"]
    assert run("manifests", "--image", IMAGE, "--installer", "--remove").returncode == 0
    assert run("manifests", "--image", IMAGE, "--installer").returncode == 5
