"""`apiha user-data`: the pins of a CA, the token, the pieces, and what the formats make of them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shlex
import subprocess
import urllib.parse
import zipfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from apiha.config import load
from apiha.errors import ConfigError
from apiha.install.units import UNITS
from apiha.userdata import formats, pieces
from apiha.userdata.pieces import NodeFile, Plan, Program
from apiha.userdata.pins import public_key_pins
from apiha.userdata.token import new_token, secret_of

NOW = datetime(2026, 11, 24, 12, 0, 0, 250000, timezone.utc)
SETTINGS = {
    "control_plane": "10.0.0.11,10.0.0.12,10.0.0.13",
    "vip": "10.96.0.100",
    "ca_file": "/etc/apiha/ca.crt",
}
URL = "https://artifacts.example.com/apiha.pyz"
SHA256 = "0123456789abcdef" * 4
JOIN = pieces.join_command(
    "apiserver.cluster.local", 6443, "abcdef.0123456789abcdef", ["sha256:" + "ab" * 32]
)


def certificate(key: Any) -> tuple[str, str]:
    """A self-signed certificate (PEM) with this key, and the pin of it by another implementation."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(NOW)
    builder = builder.not_valid_after(NOW + timedelta(days=3650))
    made = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    encoding, form = serialization.Encoding, serialization.PublicFormat.SubjectPublicKeyInfo
    digest = hashlib.sha256(key.public_key().public_bytes(encoding.DER, form)).hexdigest()
    return made.public_bytes(encoding.PEM).decode(), f"sha256:{digest}"


KEYS = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


def plan(**options: Any) -> Plan:
    """A plan with everything but what is overridden."""
    whole: dict[str, Any] = {
        "settings": SETTINGS,
        "ca": "CA\n",
        "program": Program(URL, SHA256),
        "join": JOIN,
    }
    return Plan(**{**whole, **options})


def archive(folder: Path, first: bytes = b"#!/usr/bin/env python3\n") -> Path:
    """A small file of the shape of `apiha.pyz`."""
    path = folder / "apiha.pyz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("apiha/__init__.py", "")
    path.write_bytes(first + path.read_bytes())
    return path


# -------------------------------------------------------------------------------------------------------- the pins


@pytest.mark.parametrize("kind", KEYS)
def test_a_pin_is_that_of_the_public_key(kind: str) -> None:
    """For every kind of key, as another implementation has it."""
    pem, pin = certificate(KEYS[kind]())
    assert public_key_pins(pem) == [pin]


def test_a_bundle_has_a_pin_for_each_certificate() -> None:
    """While a CA is replaced there are two; one that stands there twice counts once. Text around them is no matter."""
    one, first = certificate(KEYS["ec"]())
    other, second = certificate(KEYS["ec"]())
    assert public_key_pins(f"# old\n{one}# new\n{other}{one}") == [first, second]


def test_what_is_no_certificate_is_an_error() -> None:
    """Cut off anywhere, or of other bytes: always a ValueError, never another pin."""
    pem, _ = certificate(KEYS["ec"]())
    der = base64.b64decode("".join(pem.splitlines()[1:-1]))
    broken = [der[:length] for length in range(len(der))] + [b"\x30\x80" + der[2:], b"\xff" * 40, b"0" * 40]
    for data in broken:
        text = base64.b64encode(data).decode()
        with pytest.raises(ValueError, match="certificate"):
            public_key_pins(f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    for text in ("", "-----BEGIN CERTIFICATE-----\nno base64!\n-----END CERTIFICATE-----\n", "CERTIFICATE"):
        with pytest.raises(ValueError, match="certificate"):
            public_key_pins(text)


# ------------------------------------------------------------------------------------------------------- the token


def test_a_token_is_as_kubeadm_makes_it() -> None:
    """Its form, the Secret's name, type, usages and group, and the time of its end in UTC."""
    characters = iter("abcdef0123456789abcdef")
    token = new_token(lambda alphabet: next(c for c in characters if c in alphabet), NOW, 3600.0)
    assert token.text == "abcdef.0123456789abcdef"
    secret = secret_of(token, "a test")
    assert secret["metadata"] == {"name": "bootstrap-token-abcdef", "namespace": "kube-system"}
    assert secret["type"] == "bootstrap.kubernetes.io/token"
    assert secret["stringData"] == {
        "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        "description": "a test",
        "expiration": "2026-11-24T13:00:00Z",
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
    }
    assert "0123456789abcdef" not in repr(token)


# ------------------------------------------------------------------------------------------------------ the pieces


def test_cloud_init_installs_pins_joins_and_starts_the_rest() -> None:
    """The order matters: the name must be pinned before kubeadm uses it. A failure ends the list."""
    _, commands = pieces.cloud_init(plan(kubelet_http2=True))
    assert commands[0] == "set -e"
    assert [command.split()[:2] for command in commands[1:]] == [
        ["curl", "-fsSL"],
        ["echo", f"'{SHA256}"],
        ["python3", "/opt/apiha.pyz"],
        ["apiha", "bootstrap"],
        ["kubeadm", "join"],
        ["systemctl", "start"],
    ]
    assert "--pin-only" in commands[4]
    assert commands[3].endswith("install --kubelet-http2")


def test_the_checksum_that_the_node_checks_is_that_of_the_archive(tmp_path: Path) -> None:
    """The line is run as it is printed, with another place: one byte more, and it fails."""
    path = archive(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    _, commands = pieces.cloud_init(plan(program=Program(URL, digest)))
    check = commands[2].replace("/opt/apiha.pyz", str(path))
    assert subprocess.run(["sh", "-c", check], check=False, capture_output=True).returncode == 0
    path.write_bytes(path.read_bytes() + b"\n")
    assert subprocess.run(["sh", "-c", check], check=False, capture_output=True).returncode != 0


def test_a_url_is_one_word_of_the_shell() -> None:
    """Whatever the query of a presigned URL holds."""
    url = "https://bucket.example.com/apiha.pyz?a=1&b=$(reboot)'"
    _, commands = pieces.cloud_init(plan(program=Program(url, SHA256)))
    assert shlex.split(commands[1])[-1] == url


def test_an_image_that_has_the_program_gets_neither_program_nor_units() -> None:
    """Only what the cluster knows, the pin, the join and the start of what the image has enabled."""
    files, commands = pieces.cloud_init(plan(program=Program()))
    assert [str(file.path) for file in files] == ["/etc/apiha/config.yaml", "/etc/apiha/ca.crt"]
    assert not [command for command in commands if "install" in command]
    files, units = pieces.ignition(plan(program=Program(), join=None))
    assert (len(files), units) == (2, [])


def test_ignition_brings_every_unit_and_a_join_that_only_root_can_read() -> None:
    """No unit's text holds the token; the sandbox of apiha's services does not apply to the unit that joins."""
    files, units = pieces.ignition(plan())
    assert [unit.name for unit in units] == [*UNITS, "join-cluster.service"]
    assert not [unit.name for unit in units if "abcdef.0123456789abcdef" in unit.text]
    (script,) = [file for file in files if file.text and "abcdef.0123456789abcdef" in file.text]
    assert script.mode == 0o700
    assert str(script.path) in units[-1].text
    assert "/usr/local/bin/apiha" not in "".join(unit.text for unit in units)
    drop_ins = [str(file.path) for file in files if file.path.suffix == ".conf"]
    assert "/etc/systemd/system/apiha-.service.d/10-sandbox.conf" in drop_ins


def test_the_configuration_is_one_that_apiha_reads(tmp_path: Path) -> None:
    """Short, and with the values that were given."""
    path = tmp_path / "config.yaml"
    text = pieces.config_file(plan(settings={**SETTINGS, "port": "7443", "fallbacks": "no"})).text
    assert text is not None
    path.write_text(text)
    config = load(path, {}, {})
    assert [str(each) for each in config.control_plane] == [
        "10.0.0.11:7443",
        "10.0.0.12:7443",
        "10.0.0.13:7443",
    ]
    assert (config.vip, config.fallbacks, str(config.ca_file)) == ("10.96.0.100", False, "/etc/apiha/ca.crt")


def test_the_ca_is_not_where_kubeadm_writes_its_own() -> None:
    """`kubeadm join` fails where that file exists; without a join it may be there."""
    settings = {**SETTINGS, "ca_file": "/etc/kubernetes/pki/ca.crt"}
    with pytest.raises(ConfigError, match="kubeadm join"):
        pieces.ca_file(plan(settings=settings))
    assert pieces.ca_file(plan(settings=settings, join=None)).text == "CA\n"


def test_an_installed_program_is_embedded_as_one_that_runs_anywhere(tmp_path: Path) -> None:
    """`install` writes the Python of its machine into the first line; another machine may have another."""
    installed = archive(tmp_path, b"#!/opt/python3.12/bin/python3 -IS\n")
    assert pieces.read_archive(installed).startswith(b"#!/usr/bin/env python3\nPK")


@pytest.mark.parametrize(
    "data", [b"", b"#!/bin/sh\n", b"PK\x03\x04", b"#!/usr/bin/env python3\nPK but not apiha"]
)
def test_what_is_no_archive_is_not_embedded(tmp_path: Path, data: bytes) -> None:
    """One line says what was expected."""
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"not an apiha\.pyz"):
        pieces.read_archive(path)
    with pytest.raises(ConfigError, match="cannot read it: No such file"):
        pieces.read_archive(tmp_path / "nowhere")


# ----------------------------------------------------------------------------------------------------- the formats


def contents(entry: dict[str, Any]) -> bytes | str:
    """What Ignition puts into a file: the bytes of a `data:` URL (RFC 2397), or the URL it downloads."""
    source: str = entry["contents"]["source"]
    if not source.startswith("data:"):
        return source
    head, _, body = source.partition(",")
    data = base64.b64decode(body) if head.endswith(";base64") else urllib.parse.unquote_to_bytes(body)
    return gzip.decompress(data) if entry["contents"].get("compression") == "gzip" else data


def test_cloud_config_holds_the_files_as_they_are(tmp_path: Path) -> None:
    """Texts, modes, and the program packed; the first line is what cloud-init knows the format by."""
    program = archive(tmp_path).read_bytes()
    files, commands = pieces.cloud_init(plan(program=Program(archive=program), ca="CA\n: &x 'y' \"z\"\n"))
    text = formats.cloud_config(files, commands)
    assert text.startswith("#cloud-config\n")
    document = yaml.safe_load(text)
    assert document["runcmd"] == commands
    written = {entry["path"]: entry for entry in document["write_files"]}
    assert written["/etc/apiha/ca.crt"]["content"] == "CA\n: &x 'y' \"z\"\n"
    assert written["/etc/apiha/ca.crt"]["permissions"] == "0644"
    packed = written["/opt/apiha.pyz"]
    assert (packed["permissions"], packed["encoding"]) == ("0755", "gz+b64")
    assert gzip.decompress(base64.b64decode(packed["content"])) == program


def test_ignition_holds_the_files_as_they_are(tmp_path: Path) -> None:
    """Texts, modes, the program packed or as a URL with its checksum."""
    program = archive(tmp_path).read_bytes()
    for given, expected in ((Program(archive=program), program), (Program(URL, SHA256), URL)):
        files, units = pieces.ignition(plan(program=given, kubelet_http2=True))
        document = json.loads(formats.ignition(files, units))
        written = {entry["path"]: entry for entry in document["storage"]["files"]}
        for file in files:
            entry = written[str(file.path)]
            assert entry["mode"] == file.mode
            assert contents(entry) == (expected if file.text is None else file.text.encode())
        enabled = {unit["name"] for unit in document["systemd"]["units"] if unit.get("enabled")}
        assert {"apiha-bootstrap.service", "apiha-vip.service", "join-cluster.service"} <= enabled
    assert written["/opt/bin/apiha"]["contents"]["verification"] == {"hash": f"sha256-{SHA256}"}


def test_butane_says_what_ignition_says(tmp_path: Path) -> None:
    """Translated by Butane's rules (`inline` becomes a `data:` URL) it is the same document."""
    for program in (Program(archive=archive(tmp_path).read_bytes()), Program(URL, SHA256), Program()):
        files, units = pieces.ignition(plan(program=program, kubelet_http2=True))
        document = yaml.safe_load(formats.butane(files, units))
        assert (document.pop("variant"), document.pop("version")) == ("fcos", "1.4.0")
        expected = json.loads(formats.ignition(files, units))
        assert expected.pop("ignition") == {"version": "3.3.0"}  # what that version of Butane writes
        for entry in (*document["storage"]["files"], *expected["storage"]["files"]):
            inline = entry["contents"].pop("inline", None)
            entry["contents"] = contents(entry) if inline is None else inline.encode()
        assert document == expected


@pytest.mark.parametrize("output", ["cloud-config", "ignition", "butane"])
def test_what_downloads_the_program_fits_into_any_cloud(output: str) -> None:
    """EC2 takes 16 KiB; a CA of RSA keys has 1.1 KiB."""
    whole = plan(ca=certificate(KEYS["rsa"]())[0], kubelet_http2=True)
    if output == "cloud-config":
        text = formats.cloud_config(*pieces.cloud_init(whole))
    else:
        text = getattr(formats, output)(*pieces.ignition(whole))
    assert len(text.encode()) < 16 << 10


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """No time stamp inside the packed program."""
    whole = plan(program=Program(archive=archive(tmp_path).read_bytes()))
    assert formats.cloud_config(*pieces.cloud_init(whole)) == formats.cloud_config(*pieces.cloud_init(whole))


def test_modes_are_read_as_octal_by_go() -> None:
    """Butane reads YAML with go-yaml, to which `0700` is octal."""
    text = formats.butane([NodeFile(Path("/x"), "text\n", mode=0o700)], [])
    assert re.search(r"^ +mode: 0700$", text, re.MULTILINE)
