"""The cluster's CA, made on the spot, with the certificates it issues and those it would never issue."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

DEFAULT_HOST = "apiserver.cluster.local"


@dataclass(frozen=True)
class Certificate:
    """A certificate chain and its private key, as two PEM files."""

    cert: Path
    key: Path


class Authority:
    """The cluster's CA, made on the spot, with the certificates it issues and those it would never issue.

    Everything is written below `directory`; `ca_file` is what a node trusts.
    """

    def __init__(self, directory: Path, *, organization: str = "apiha test cluster") -> None:
        import trustme

        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._ca = trustme.CA(organization_name=organization)
        # Same subject as the real CA: only the key tells them apart, as with an impostor who tries.
        self._stranger = trustme.CA(organization_name=organization)
        self._serial = 0
        self._lock = threading.Lock()
        self.ca_pem: str = self._ca.cert_pem.bytes().decode("ascii")
        self.ca_file = directory / "ca.crt"
        self.ca_file.write_text(self.ca_pem)
        self.stranger_ca_file = directory / "stranger.crt"
        """The CA of the `wrong_ca` certificates."""
        self.stranger_ca_file.write_bytes(self._stranger.cert_pem.bytes())

    def issue(
        self, kind: str = "good", *, host: str = DEFAULT_HOST, address: str | None = None, days: float = 365
    ) -> Certificate:
        """A serving certificate.

        `kind`: good, wrong_ca, self_signed, expired, not_yet_valid, wrong_name, ip_only, cn_only, client_only. A
        good one carries `host` and the names every API server has, not the address: nodes must not depend on it.
        `days` is how long it stays valid.
        """
        now = datetime.now(timezone.utc)
        start, end = now - timedelta(hours=1), now + timedelta(days=days)
        names = [host, "kubernetes", "kubernetes.default.svc"]
        ca = self._ca
        if kind == "wrong_ca":
            ca = self._stranger
        if kind == "self_signed":
            return self._self_signed(host)
        if kind == "expired":
            start, end = now - timedelta(days=365), now - timedelta(days=1)
        elif kind == "not_yet_valid":
            start, end = now + timedelta(days=1), now + timedelta(days=365)
        elif kind == "wrong_name":
            names = ["registry.cluster.local"] + ([address] if address else [])
        elif kind == "ip_only":
            names = [address or "127.0.0.1"]
        elif kind in ("client_only", "cn_only"):
            return self._unusual(kind, host)
        elif kind not in ("good", "wrong_ca"):
            raise ValueError(f"no such kind of certificate: {kind}")
        leaf = ca.issue_cert(*names, not_before=start, not_after=end)
        return self._write(
            kind, b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes()
        )

    def issue_client(self, user: str = "system:node:worker-1", group: str = "system:nodes") -> Certificate:
        """A client certificate as a kubelet holds it: user in the common name, group in the organization."""
        leaf = self._ca.issue_cert(common_name=user, organization_name=group)
        return self._write(
            "client", b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes()
        )

    def _self_signed(self, host: str) -> Certificate:
        """A certificate for the right name that vouches for itself, as an appliance makes at first start."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        now = datetime.now(timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=3650))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        return self._write("self_signed", *_pem(certificate, key))

    def _unusual(self, kind: str, host: str) -> Certificate:
        """A certificate by the right CA that no TLS server should show: see `client_only` and `cn_only`."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        ca = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        ca_key = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(timezone.utc)
        ca_identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        for_clients = kind == "client_only"
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if for_clients else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)]))
            .issuer_name(ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=365))
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_identifier), critical=False
            )
        )
        if for_clients:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return self._write(kind, *_pem(builder.sign(ca_key, hashes.SHA256()), key))

    def _write(self, kind: str, cert: bytes, key: bytes) -> Certificate:
        with self._lock:
            self._serial += 1
            stem = f"{kind}-{self._serial}"
        certificate = Certificate(self.directory / f"{stem}.crt", self.directory / f"{stem}.key")
        certificate.cert.write_bytes(cert)
        certificate.key.touch(mode=0o600)
        certificate.key.write_bytes(key)
        return certificate


def _pem(certificate: Any, key: Any) -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives import serialization

    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
