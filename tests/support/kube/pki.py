"""The cluster's CA, and what it signs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Credentials:
    """A certificate chain and its key, PEM files."""

    cert: Path
    key: Path


class Pki:
    """The cluster's CA, and what it signs; also the key pair that signs service account tokens."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._ca = trustme.CA(organization_name="apiha test cluster")
        self.ca_file = directory / "ca.crt"
        self.ca_key_file = directory / "ca.key"
        self._ca.cert_pem.write_to_path(str(self.ca_file))
        self._ca.private_key_pem.write_to_path(str(self.ca_key_file))
        # A certificate's key pair will do for the tokens: kube-apiserver takes certificates as public keys.
        self.service_accounts = self.issue("service-accounts", common_name="service-accounts")

    def rotate(self) -> str:
        """From now on another CA signs; `ca_file` holds both. Returns the new CA's certificate (PEM)."""
        before = self.ca_file.read_text()
        self._ca = trustme.CA(organization_name="apiha test cluster, second CA")
        fresh = self._ca.cert_pem.bytes().decode("ascii")
        self.ca_file.write_text(before + fresh)
        return fresh

    def issue(
        self, file_name: str, *identities: str, common_name: str, organization: str | None = None
    ) -> Credentials:
        """A certificate for these DNS names and addresses (serving), or for a user in a group (client)."""
        # trustme marks the alternative names critical, and Go refuses a critical list that is empty.
        leaf = self._ca.issue_cert(
            *(identities or ("client.invalid",)), common_name=common_name, organization_name=organization
        )
        issued = Credentials(self._directory / f"{file_name}.crt", self._directory / f"{file_name}.key")
        issued.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(issued.key))
        issued.key.chmod(0o600)
        return issued
