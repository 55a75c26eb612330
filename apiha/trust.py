"""Which CA a control plane must prove itself with, and the TLS context that holds it to that.

The CA comes from `ca_file`, else from kubelet's kubeconfig, else from kubeadm's folder.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apiha.config import OTHER_YAML_ERRORS, Config, read_text
from apiha.errors import ConfigError
from apiha.paths import KUBEADM_CA, KUBELET_KUBECONFIG

_X509_V_FLAG_NO_CHECK_TIME = 0x200000  # OpenSSL's x509_vfy.h; Python's ssl has no name for it


@dataclass(frozen=True)
class Kubeconfig:
    """The parts of a kubeconfig's current context that apiha uses; None where absent.

    `server` is the URL of the API server; `ca`, `client_cert` and `client_key` are PEM texts. `server_name` is what
    the certificate must carry if not the URL's host, `insecure` whether it is not looked at, `proxy` a URL.
    `unsupported` names the ways to authenticate that apiha does not know. `files` are the kubeconfig and the files
    that were read because it names them; `token_file` is not read.
    """

    server: str | None
    ca: str | None
    client_cert: str | None
    client_key: str | None
    server_name: str | None = None
    insecure: bool = False
    proxy: str | None = None
    token: str | None = None
    token_file: Path | None = None
    unsupported: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class CertificateAuthority:
    """The cluster's CA bundle (PEM) and where it was read; `doubts` are warnings about places that were passed over."""

    pem: str
    source: str
    doubts: tuple[str, ...] = ()


def read_kubeconfig(path: Path) -> Kubeconfig:
    """The CA and the client credentials of the current context; raises ConfigError for what cannot be read.

    Files named inside are relative to the kubeconfig's own folder, as client-go reads them.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = read_text(path, "a kubeconfig")
    try:
        document = yaml.load(text, Loader=loader)  # noqa: S506 (both loaders are the safe ones)
    except (yaml.YAMLError, *OTHER_YAML_ERRORS) as error:
        raise ConfigError(f"{path}: not a kubeconfig: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a kubeconfig: expected a mapping")
    context = _named(document, "contexts", document.get("current-context"), "context")
    cluster = _named(document, "clusters", context.get("cluster"), "cluster")
    user = _named(document, "users", context.get("user"), "user")
    token_file = _text(user, "tokenFile")
    pem = [
        (cluster, "certificate-authority"),
        (user, "client-certificate"),
        (user, "client-key"),
    ]
    ca, client_cert, client_key = (_inline_or_file(path, entry, key) for entry, key in pem)
    named = [path.parent / str(e[key]) for e, key in pem if e.get(key) and not e.get(f"{key}-data")]
    return Kubeconfig(
        server=_text(cluster, "server"),
        ca=ca,
        client_cert=client_cert,
        client_key=client_key,
        server_name=_text(cluster, "tls-server-name"),
        insecure=cluster.get("insecure-skip-tls-verify") is True,
        proxy=_text(cluster, "proxy-url"),
        token=_text(user, "token"),
        token_file=path.parent / token_file if token_file else None,
        unsupported=tuple(key for key in ("exec", "auth-provider", "username", "as") if user.get(key)),
        files=(path, *named),
    )


def _named(document: dict[str, Any], section: str, name: object, field: str) -> dict[str, Any]:
    """The entry called `name` of a section; the only one where no name is given; {} if there is none."""
    found_list = document.get(section)
    entries = [
        e
        for e in (found_list if isinstance(found_list, list) else [])
        if isinstance(e, dict) and isinstance(e.get(field), dict)
    ]
    for entry in entries:
        if entry.get("name") == name or (name in (None, "") and len(entries) == 1):
            found: dict[str, Any] = entry[field]
            return found
    return {}


def _text(entry: dict[str, Any], key: str) -> str | None:
    value = entry.get(key)
    return None if value in (None, "") else " ".join(str(value).split())


def _inline_or_file(path: Path, entry: dict[str, Any], key: str) -> str | None:
    data = entry.get(f"{key}-data")
    if data:
        try:
            return base64.b64decode(str(data), validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            raise ConfigError(f"{path}: {key}-data: not base64 of a PEM text") from None
    name = entry.get(key)
    return read_text(path.parent / str(name), key) if name else None


def load_ca(
    config: Config, *, kubelet: Path = KUBELET_KUBECONFIG, kubeadm: Path = KUBEADM_CA
) -> CertificateAuthority:
    """The CA that a control plane must prove itself with: `ca_file`, else the kubelet's, else kubeadm's.

    A kubelet.conf that is there but unusable does not keep the node from booting if kubeadm's file can serve.
    Raises ConfigError naming all places that were tried.
    """
    if config.ca_file is not None:
        return CertificateAuthority(
            read_text(config.ca_file, "the CA certificate (ca_file)"), str(config.ca_file)
        )
    tried: list[str] = []
    doubts: tuple[str, ...] = ()
    try:
        if ca := read_kubeconfig(kubelet).ca:
            return CertificateAuthority(ca, str(kubelet))
        tried.append(f"{kubelet} holds no CA")
    except ConfigError as error:
        tried.append(str(error))
        if kubelet.exists():
            doubts = (f"{error}; taking the CA from {kubeadm}",)
    try:
        return CertificateAuthority(read_text(kubeadm, "the CA certificate"), str(kubeadm), doubts)
    except ConfigError as error:
        tried.append(str(error))
    raise ConfigError(
        f"ca_file: not set, and no CA found ({'; '.join(tried)}); expected ca_file: /path/to/ca.crt"
    )


def fingerprint(pem: str) -> str:
    """A short name for a CA bundle: the same for the same certificates, however they are ordered and wrapped."""
    found = re.findall(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", pem, re.DOTALL)
    certificates = sorted({"".join(body.split()) for body in found})
    return f"sha256:{hashlib.sha256(' '.join(certificates).encode('utf-8', 'surrogatepass')).hexdigest()}"


def common_name(pem: str) -> str | None:
    """The common name in the subject of the first certificate of a PEM text, `system:node:NAME` in a kubelet's.

    None if there is none, or the text is not a certificate.
    """
    found = re.search(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", pem, re.DOTALL)
    try:
        certificate = base64.b64decode("".join(found[1].split())) if found else b""
        # RFC 5280, section 4.1: version (tagged, may be absent), serial number, algorithm, issuer, validity, subject.
        fields = _der(_der(_der(certificate)[0][1])[0][1])
        subject = fields[5 if fields[0][0] == 0xA0 else 4][1]
        for _, relative_name in _der(subject):
            for _, attribute in _der(relative_name):
                (_, identifier), (_, value) = _der(attribute)
                if identifier == b"\x55\x04\x03":  # 2.5.4.3, id-at-commonName
                    return value.decode("utf-8")
    except (ValueError, IndexError):
        pass
    return None


def _der(data: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each element (X.690, 8.1; tags and lengths as certificates have them). Raises ValueError."""
    elements = []
    while data:
        length, start = data[1], 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(data[2:start], "big")
        if len(data) < start + length:
            raise ValueError("cut short")
        elements.append((data[0], data[start : start + length]))
        data = data[start + length :]
    return elements


def make_ssl_context(
    ca_pem: str | None,
    *,
    client_cert: Path | None = None,
    client_key: Path | None = None,
    insecure: bool = False,
    ignore_validity_period: bool = False,
) -> ssl.SSLContext:
    """A TLS client context that trusts exactly the given CA, by the rules that kubelet (Go's crypto/x509) follows.

    Like Go it takes any given certificate as an anchor, and does not insist on the extensions that
    VERIFY_X509_STRICT (Python's default since 3.13) wants of old CAs, and reads names from the SAN only.
    Raises ValueError for a CA, certificate or key that does not load.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # check_hostname and CERT_REQUIRED are on
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if ignore_validity_period:
        context.verify_flags |= _X509_V_FLAG_NO_CHECK_TIME
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        try:
            context.load_verify_locations(cadata=ca_pem or "")
        except (ssl.SSLError, ValueError):
            raise ValueError(
                "holds no usable CA certificate; expected the cluster's CA as PEM text"
            ) from None
    if client_cert is not None:
        try:
            # The callback keeps OpenSSL from asking on the terminal for the password of an encrypted key.
            context.load_cert_chain(client_cert, client_key, password=lambda: "")
        except OSError as error:  # ssl.SSLError is one
            raise ValueError(f"client certificate {client_cert} does not load ({ssl_words(error)})") from None
    return context


@contextlib.contextmanager
def pem_file(client_cert: str, client_key: str | None) -> Iterator[Path]:
    """Certificate and key as one file that exists in memory only: OpenSSL reads them from a path."""
    descriptor = os.memfd_create("apiha-client-cert", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, f"{client_cert}\n{client_key or ''}\n".encode())
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def ssl_words(error: BaseException) -> str:
    """What OpenSSL or the operating system says went wrong, in lower case and without source lines."""
    words = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return re.sub(r"\s*\(_ssl\.c:\d+\)", "", str(words)).replace("_", " ").lower()
