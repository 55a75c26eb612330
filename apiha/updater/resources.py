"""What the updater reads and writes in the cluster: every request that it makes is one of these.

The rights that they need are in the package's docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apiha.printable import one_line
from apiha.slices import Family
from apiha.updater.requests import LONGEST_MESSAGE, ApiError, Object, Requests

if TYPE_CHECKING:
    import builtins

SLICE_CREATOR = "apiserver-updater-create"  # the field manager of what is applied to create a slice


@dataclass
class Resources:
    """The API objects that the updater has to do with; each request raises ApiError and nothing else."""

    requests: Requests

    def slices(self, namespace: str, service: str) -> Collection:
        """The EndpointSlices of a Service."""
        return Collection(
            self.requests, slices_path(namespace), {"labelSelector": f"kubernetes.io/service-name={service}"}
        )

    def services(self, namespace: str, name: str) -> Collection:
        """One Service, or none."""
        path = f"/api/v1/namespaces/{namespace}/services"
        return Collection(self.requests, path, {"fieldSelector": f"metadata.name={name}"})

    def leases(self, namespace: str, name: str) -> Collection:
        """One Lease, or none."""
        return Collection(self.requests, leases_path(namespace), {"fieldSelector": f"metadata.name={name}"})

    def lease(self, namespace: str, name: str) -> NamedLease:
        """One Lease by its name."""
        return NamedLease(self.requests, namespace, name)

    def read_slice(self, namespace: str, name: str) -> Object:
        """One EndpointSlice."""
        return self.requests.call("GET", f"{slices_path(namespace)}/{name}")

    def create_slice(self, namespace: str, name: str, family: Family, timeout: float) -> Object:
        """Make sure that there is one; returns it. One that is there keeps every field that it has.

        An apply, since a POST does not name what it creates: RBAC can allow an apply for this name alone. By a field
        manager of its own: an apply takes away what the same manager applied before and leaves out now.
        """
        body = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": namespace},
            "addressType": family,
        }
        return self.requests.apply(f"{slices_path(namespace)}/{name}", body, timeout, manager=SLICE_CREATOR)

    def apply_slice(self, body: Object, timeout: float) -> Object:
        """Server-side apply (KEP-555) with force: fields of ours that others took are taken back.

        With `metadata.resourceVersion` in the body it fails with 409 if the slice has changed since.
        """
        meta = body["metadata"]
        return self.requests.apply(
            f"{slices_path(meta['namespace'])}/{meta['name']}", body, timeout, force=True
        )

    def create_event(self, body: Object) -> None:
        """An events.k8s.io/v1 Event."""
        self.requests.call(
            "POST", f"/apis/events.k8s.io/v1/namespaces/{body['metadata']['namespace']}/events", body
        )


@dataclass(frozen=True)
class Collection:
    """Objects that can be listed and watched."""

    requests: Requests
    path: str
    selector: Mapping[str, str]

    def list(self) -> tuple[builtins.list[Object], str]:
        """The objects, and the resourceVersion to watch from. A consistent read."""
        document = self.requests.call("GET", self.path, query=self.selector)
        items = [item for item in document.get("items") or () if isinstance(item, dict)]
        return items, str((document.get("metadata") or {}).get("resourceVersion") or "")

    def watch(
        self, resource_version: str, seconds: int, silence: float, on_open: Callable[[], None]
    ) -> Iterator[tuple[str, Object]]:
        """(type, object) of each event, bookmarks included, until the API server ends it after `seconds`.

        `on_open` is called once the API server has accepted the watch, which may be long before the first event.
        `silence` (seconds) without a byte ends it as a failure. An error event is raised as ApiError; its status is
        410 if the resourceVersion is too old.
        """
        query = {
            **self.selector,
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        for event in self.requests.watch(self.path, query, silence, on_open):
            kind, item = event.get("type"), event.get("object")
            if not isinstance(kind, str) or not isinstance(item, dict):
                raise ApiError(0, "the watch broke off: an event without type or object")
            if kind == "ERROR":
                code = item.get("code")
                raise ApiError(
                    code if isinstance(code, int) else 0,
                    one_line(str(item.get("message") or "an error event"), LONGEST_MESSAGE),
                )
            yield kind, item


@dataclass(frozen=True)
class NamedLease:
    """One Lease (coordination.k8s.io/v1): what an election asks for."""

    requests: Requests
    namespace: str
    name: str

    def read(self, timeout: float) -> Object:
        """The Lease, by a consistent read; ApiError 404 if there is none."""
        return self.requests.call("GET", self._path, timeout=timeout)

    def create(self, timeout: float) -> Object:
        """Make sure that there is one; returns it. One that is there stays as it is.

        An apply, since a POST does not name what it creates: RBAC can allow an apply for this name alone.
        """
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": self.namespace},
        }
        return self.requests.apply(self._path, body, timeout)

    def replace(self, body: Object, timeout: float) -> Object:
        """PUT: fails with 409 if it has changed since the resourceVersion in `body`."""
        return self.requests.call("PUT", self._path, body, timeout=timeout)

    @property
    def _path(self) -> str:
        return f"{leases_path(self.namespace)}/{self.name}"


def slices_path(namespace: str) -> str:
    """Where a namespace's EndpointSlices are."""
    return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"


def leases_path(namespace: str) -> str:
    """Where a namespace's Leases are."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
