"""The pin by which `kubeadm join` recognises the cluster's CA. Pure.

`sha256:` and the hexadecimal SHA-256 of the certificate's SubjectPublicKeyInfo in DER, as RFC 7469 has it:
k8s.io/kubernetes/cmd/kubeadm/app/util/pubkeypin. The standard library reads no certificates, and this needs one field.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION = 0x30, 0xA0  # DER tags: X.690; the version is the explicit [0] of RFC 5280, section 4.1
# Of a TBSCertificate, behind the version (absent in v1): serialNumber, signature, issuer, validity, subject.
_FIELDS_BEFORE_KEY = 5


def public_key_pins(pem: str) -> list[str]:
    """The pin of each certificate in a PEM text, each once; raises ValueError if there is none, or a broken one."""
    bodies = _PEM.findall(pem)
    if not bodies:
        raise ValueError("holds no certificate; expected PEM text")
    try:
        found = [_public_key(base64.b64decode("".join(body.split()), validate=True)) for body in bodies]
    except (binascii.Error, IndexError):
        raise ValueError("holds a certificate that cannot be read") from None
    return list(dict.fromkeys(f"sha256:{hashlib.sha256(key).hexdigest()}" for key in found))


def _public_key(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo, tag and length included; raises ValueError or IndexError if it is not a certificate."""
    start, _ = _contents(certificate, 0, _SEQUENCE)
    position, end = _contents(certificate, start, _SEQUENCE)
    if certificate[position] == _VERSION:
        position = _contents(certificate, position, _VERSION)[1]
    for _ in range(_FIELDS_BEFORE_KEY):
        position = _contents(certificate, position)[1]
    _, after = _contents(certificate, position, _SEQUENCE)
    if after > end:
        raise ValueError("holds a certificate that cannot be read")
    return certificate[position:after]


def _contents(data: bytes, position: int, tag: int | None = None) -> tuple[int, int]:
    """Where the contents of the element at `position` begin and end; raises ValueError for another tag, IndexError."""
    if tag is not None and data[position] != tag:
        raise ValueError("holds a certificate that cannot be read")
    length, begin = data[position + 1], position + 2
    if length & 0x80:  # the long form: that many bytes of length follow
        begin += length & 0x7F
        length = int.from_bytes(data[position + 2 : begin], "big")
    if begin + length > len(data):
        raise ValueError("holds a certificate that cannot be read")
    return begin, begin + length
