"""What `make dist` builds: the same bytes each time, complete, and in order by the tools that judge such files."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from apiha import __version__
from tools import dist, man
from tools.vendor import UNUSED, read_lock

pytestmark = pytest.mark.timeout(1800)

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = dist.names()


def run(command: Sequence[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
    """Run it, output captured; raises AssertionError with the output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command} exits {done.returncode}:\n{done.stdout}{done.stderr}"
    return done  # type: ignore[no-any-return]


def needs(tool: str, package: str = "") -> None:
    """Skip where a tool is missing. CI installs them all."""
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}: apt-get install {package or tool}")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything but the image, as `make dist` builds it, in a folder of its own."""
    return _build(tmp_path_factory.mktemp("first"), "0")


def _build(folder: Path, hash_seed: str) -> Path:
    """A build in a process of its own, with another order of Python's sets and under another umask."""
    program = "import sys; from tools import dist; dist.KINDS = dist.KINDS[:4]; sys.exit(dist.main())"
    run(
        ["sh", "-c", 'umask "$0" && exec "$@"', "022" if hash_seed == "0" else "077",
         sys.executable, "-c", program, "--out", folder],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": "UTC" if hash_seed == "0" else "Asia/Shanghai"},
    )  # fmt: skip
    return folder


def test_two_builds_of_one_commit_are_the_same_to_the_byte(built: Path, tmp_path: Path) -> None:
    """Wheel, sdist, the one file, the Debian package, their SBOMs and the checksums."""
    again = _build(tmp_path, "1")
    sums = {
        folder: {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        for folder in (built, again)
    }
    assert sums[built] == sums[again]
    artifacts = [NAMES[kind] for kind in ("wheel", "sdist", "pyz", "deb")]
    assert set(sums[built]) == {*artifacts, *(f"{name}.cdx.json" for name in artifacts), "SHA256SUMS"}


def test_the_checksums_are_those_of_all_files(built: Path) -> None:
    """`sha256sum -c` agrees, and names every file."""
    done = run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=built)
    assert len(done.stdout.splitlines()) == len(list(built.iterdir())) - 1


def test_wheel_and_sdist_are_fit_for_an_index(built: Path) -> None:
    """`twine check --strict`."""
    run([sys.executable, "-m", "twine", "check", "--strict", built / NAMES["wheel"], built / NAMES["sdist"]])


@pytest.mark.parametrize("kind", ["wheel", "sdist", "pyz", "deb"])
def test_the_sbom_is_valid_and_names_what_is_inside(kind: str, built: Path) -> None:
    """By CycloneDX's own schema; the packages of the one file and of the Debian package are those of the lock."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    artifact = built / NAMES[kind]
    text = (built / f"{artifact.name}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
    assert document["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    inside = (
        {pin.name: pin for pin in read_lock() if pin.name not in UNUSED} if kind in ("pyz", "deb") else {}
    )
    assert {component["name"] for component in document["components"]} == set(inside)
    for component in document["components"]:
        assert component["version"] == inside[component["name"]].version
        assert f"sha256:{component['hashes'][0]['content']}" in inside[component["name"]].hashes


def test_the_one_file_runs_and_holds_nothing_of_this_machine(built: Path) -> None:
    """`--version`; no path of the build, no compiled library, the licences of what is inside."""
    archive = built / NAMES["pyz"]
    assert run([sys.executable, "-IS", archive, "--version"]).stdout == f"apiha {__version__}\n"
    with zipfile.ZipFile(archive) as zipped:
        names = zipped.namelist()
        text = b"".join(zipped.read(name) for name in names)
    assert str(REPOSITORY).encode() not in text
    assert [name for name in names if name.endswith((".so", "direct_url.json", "RECORD"))] == []
    licensed = {name.split("-")[0] for name in names if ".dist-info/" in name}
    assert {"apiha", "click", "httpx", "httpcore", "h11", "idna", "pyyaml"} <= {n.lower() for n in licensed}


def test_the_debian_package_is_in_order_for_dpkg_and_lintian(built: Path) -> None:
    """dpkg-deb reads it; lintian finds no error; its configuration is a conffile."""
    needs("dpkg-deb", "dpkg")
    package = built / NAMES["deb"]
    fields = run(["dpkg-deb", "--field", package]).stdout
    assert "Architecture: all" in fields
    assert "Depends: python3 (>= 3.10)" in fields
    assert run(["dpkg-deb", "--info", package, "conffiles"]).stdout == "/etc/apiha/config.yaml\n"
    listed = run(["dpkg-deb", "--contents", package]).stdout.splitlines()
    assert {" ".join(line.split()[:2])[10:] for line in listed} == {" root/root"}
    needs("lintian")
    found = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error", "--tag-display-limit", "0", package],
        capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr


def test_man_finds_no_fault_with_the_pages(built: Path, tmp_path: Path) -> None:
    """groff warns of nothing, nor does mandoc; the pages of the package are those of the tool."""
    needs("dpkg-deb", "dpkg")
    run(["dpkg-deb", "--extract", built / NAMES["deb"], tmp_path])
    for name, text in man.pages().items():
        packed = tmp_path / f"usr/share/man/man{name[-1]}/{name}.gz"
        assert gzip.decompress(packed.read_bytes()).decode() == text
    needs("man", "man-db")
    for packed in sorted(tmp_path.glob("usr/share/man/man*/*.gz")):
        shown = run(
            ["man", "--warnings", "--local-file", packed],
            env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""},
        )
        assert shown.stderr == ""
        assert "NAME" in shown.stdout
    if shutil.which("mandoc"):
        for name, text in man.pages().items():
            done = subprocess.run(
                ["mandoc", "-T", "lint", "-W", "warning"],
                input=text, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.stdout == "", name


def test_the_shells_complete_commands_and_options(built: Path, tmp_path: Path) -> None:
    """bash, zsh and fish take the files; bash completes with the package's own program."""
    needs("dpkg-deb", "dpkg")
    run(["dpkg-deb", "--extract", built / NAMES["deb"], tmp_path])
    program = tmp_path / "bin/apiha"
    program.parent.mkdir()
    text = (tmp_path / "usr/bin/apiha").read_text().replace('"/usr/share', f'"{tmp_path}/usr/share')
    program.write_text(text.replace("#!/usr/bin/python3", f"#!{sys.executable}"))
    program.chmod(0o755)
    folder = tmp_path / "usr/share"
    script = f"""
        source {folder}/bash-completion/completions/apiha
        COMP_WORDS=(apiha pin-host --wa); COMP_CWORD=2; _apiha_completion apiha --wa pin-host; echo "${{COMPREPLY[@]}}"
        COMPREPLY=()
        COMP_WORDS=(apiha recon); COMP_CWORD=1; _apiha_completion apiha recon apiha; echo "${{COMPREPLY[@]}}"
    """
    environ = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    assert run(["bash", "-c", script], env=environ).stdout.split() == ["--wait", "reconcile"]
    for shell, path in {
        "zsh": "zsh/vendor-completions/_apiha",
        "fish": "fish/vendor_completions.d/apiha.fish",
    }.items():
        if shutil.which(shell):
            run([shell, "-n", folder / path])


def test_the_sdist_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    """Whoever has only the sdist gets the same program."""
    with tarfile.open(built / NAMES["sdist"]) as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # type: ignore[arg-type]
    source = tmp_path / f"apiha-{__version__}"
    with zipfile.ZipFile(built / NAMES["wheel"]) as zipped:
        for name in zipped.namelist():
            if name.startswith("apiha/") and name.endswith(".py"):
                assert (source / name).read_bytes() == zipped.read(name)
