"""What a kube-apiserver answers to one request: bytes in, bytes out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

_JSON = {"Content-Type": "application/json"}
_ENDPOINT_SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


@dataclass
class Request:
    """A request as the server read it."""

    method: str
    target: str
    headers: dict[str, str]


def answer(
    request: Request,
    subject: str | None,
    behaviour: str,
    *,
    slices: Sequence[dict[str, Any]] | None,
    redirect_to: str,
) -> bytes:
    """The whole response to `request` by the bearer of a certificate with this subject (None: no certificate).

    `slices` are the EndpointSlices of namespace `default`; None forbids them to everybody.
    """
    path = urlsplit(request.target).path
    if behaviour == "redirect":
        return _response(302, "", {"Location": redirect_to})
    if behaviour == "unauthorized" or (behaviour == "client_certificate" and subject is None):
        return _status(401, "Unauthorized", "Unauthorized")
    if request.method != "GET":
        return _status(405, "MethodNotAllowed", "the server does not allow this method")
    if path.startswith(_ENDPOINT_SLICES):
        return _endpoint_slices(subject, request, slices)
    if behaviour == "forbidden":
        return _status(403, "Forbidden", f'forbidden: User "system:anonymous" cannot get path "{path}"')
    if path == "/version":
        return _response(200, json.dumps({"major": "1", "minor": "36", "gitVersion": "v1.36.0"}), _JSON)
    if path not in ("/readyz", "/livez", "/healthz"):
        return _response(404, "404 page not found\n")
    if behaviour == "not_ready" and path == "/readyz":
        return _response(
            500,
            "[+]ping ok\n[+]log ok\n[-]etcd failed: reason withheld\nreadyz check failed\n",
        )
    return _response(200, "ok")


def _endpoint_slices(subject: str | None, request: Request, slices: Sequence[dict[str, Any]] | None) -> bytes:
    if subject is None or slices is None:
        user = "system:anonymous" if subject is None else subject.rsplit("CN=", 1)[-1]
        return _status(
            403,
            "Forbidden",
            f'endpointslices.discovery.k8s.io is forbidden: User "{user}" cannot list resource '
            '"endpointslices" in API group "discovery.k8s.io" in the namespace "default"',
        )
    url = urlsplit(request.target)
    name = url.path[len(_ENDPOINT_SLICES) :].strip("/")
    if name:
        for item in slices:
            if item.get("metadata", {}).get("name") == name:
                return _response(200, json.dumps(item), _JSON)
        return _status(404, "NotFound", f'endpointslices.discovery.k8s.io "{name}" not found')
    query = parse_qs(url.query)
    wanted = dict(
        pair.split("=", 1) for pair in query.get("labelSelector", [""])[0].split(",") if "=" in pair
    )
    items = [item for item in slices if wanted.items() <= item.get("metadata", {}).get("labels", {}).items()]
    listing = {
        "kind": "EndpointSliceList",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"resourceVersion": "1"},
        "items": items,
    }
    return _response(200, json.dumps(listing), _JSON)


def parse_request(head: bytes) -> Request:
    """A request's head, up to the empty line. Raises ValueError if it is none."""
    lines = head.decode("latin-1").split("\r\n")
    method, target, _version = lines[0].split(" ")
    headers = {
        name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])
    }
    return Request(method, target, headers)


def _response(status: int, body: str, headers: dict[str, str] | None = None) -> bytes:
    """A response with the headers that Go's net/http and kube-apiserver send."""
    payload = body.encode()
    fields = {
        "Audit-Id": "3f2b8f0e-0000-4000-8000-000000000000",
        "Cache-Control": "no-cache, private",
        "Content-Type": "text/plain; charset=utf-8",
        "X-Content-Type-Options": "nosniff",
        "Date": formatdate(usegmt=True),
        "Content-Length": str(len(payload)),
        **(headers or {}),
    }
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
    return (
        head + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
    ).encode() + payload


def _status(code: int, reason: str, message: str) -> bytes:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return _response(code, json.dumps(body), _JSON)
