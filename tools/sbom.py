"""Writes the SBOM of an artifact: `ARTIFACT.cdx.json`, what is inside of it, as CycloneDX 1.6 (https://cyclonedx.org)."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from apiha import HOMEPAGE, __version__
from tools.vendor import Package

SUFFIX = ".cdx.json"
# What the kind of an artifact makes of `apiha`: a package URL (https://github.com/package-url/purl-spec).
_PURLS = {
    ".whl": "pkg:pypi/apiha@{version}",
    ".tar.gz": "pkg:pypi/apiha@{version}",
    ".deb": "pkg:deb/apiha@{version}?arch=all",
}


def write(artifact: Path, packages: Sequence[Package], epoch: int, *, base: str | None = None) -> Path:
    """Write it beside the artifact; `packages` are in it besides apiha, `base` is the image that it stands on."""
    target = artifact.with_name(artifact.name + SUFFIX)
    document = bom(artifact.name, artifact.read_bytes(), packages, epoch, base=base)
    target.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return target


def bom(
    name: str, data: bytes, packages: Sequence[Package], epoch: int, *, base: str | None = None
) -> dict[str, Any]:
    """The document; the same artifact gives the same one."""
    digest = hashlib.sha256(data).hexdigest()
    template = next(
        (purl for end, purl in _PURLS.items() if name.endswith(end)), "pkg:generic/apiha@{version}"
    )
    purl = template.format(version=__version__)
    components = [_component(package) for package in packages]
    if base is not None:
        components.append({"type": "container", "bom-ref": base, "name": base, **_digest_of(base)})
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{HOMEPAGE}#{digest}')}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": name,
                "name": "apiha",
                "version": __version__,
                "purl": purl,
                "hashes": [{"alg": "SHA-256", "content": digest}],
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "externalReferences": [{"type": "website", "url": HOMEPAGE}],
                "properties": [{"name": "apiha:artifact", "value": name}],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": name, "dependsOn": [component["bom-ref"] for component in components]},
            *({"ref": component["bom-ref"]} for component in components),
        ],
        "compositions": [{"aggregate": "complete" if base is None else "incomplete", "assemblies": [name]}],
    }


def _component(package: Package) -> dict[str, Any]:
    purl = f"pkg:pypi/{package.name}@{package.version}"
    if re.fullmatch(r"[A-Za-z0-9.+-]+", package.licence):
        licence: dict[str, Any] = {"license": {"id": package.licence}}
    elif re.fullmatch(r"[A-Za-z0-9.+()-]+( (AND|OR|WITH) [A-Za-z0-9.+()-]+)+", package.licence):
        licence = {"expression": package.licence}
    else:
        licence = {"license": {"name": package.licence}}
    return {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
        **({"hashes": [{"alg": "SHA-256", "content": package.sha256}]} if package.sha256 else {}),
        "licenses": [licence],
    }


def _digest_of(reference: str) -> dict[str, Any]:
    """The hash of an image that is named by its digest."""
    found = re.search(r"@sha256:([0-9a-f]{64})$", reference)
    return {"hashes": [{"alg": "SHA-256", "content": found[1]}]} if found else {}
