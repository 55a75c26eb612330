"""The cluster, asked through kubectl: with the user's kubeconfig, context and login (exec plugins, proxies)."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from apiha.config import read_text
from apiha.errors import ApihaError, ConfigError, NoControlPlane, NotPermitted
from apiha.printable import one_line

_KUBECTL_TIMEOUT = 60.0  # seconds for one run: a login plugin may ask the user something
# kubectl's `StandardErrorMessage`: what the API server answered, by the reason of its Status.
_SERVER_ERROR = re.compile(
    r"Error from server \((?P<reason>\w+)\): (?:error when \w+ \"\S+\": )?(?P<text>.*)", re.DOTALL
)
# What kubectl says of a file that is not a kubeconfig, or that lacks what it refers to.
_NO_KUBECONFIG = re.compile(
    r"error loading config file|context \"[^\"]*\" does not exist|invalid configuration: |Error in configuration: "
)
# What an API server says to credentials that it does not know; kubectl prefixes the two texts of that (401) alike.
_UNAUTHORIZED = "You must be logged in to the server"
# klog's lines, which kubectl's libraries write before kubectl itself says anything: E1124 17:39:11.000000 7 x.go:1] ...
_KLOG = re.compile(r"^[EWIF]\d{4} \d\d:\d\d:\d\d\.\d+ .*$", re.MULTILINE)
_NO_CLUSTER = (
    "The connection to the server localhost:8080 was refused"  # what kubectl tries without a kubeconfig
)
_INVALID = re.compile(r"The (?P<kind>\S+) \"(?P<name>[^\"]*)\" is invalid: (?P<text>.*)", re.DOTALL)


class KubectlError(Exception):
    """The API server refused; `reason` is that of its Status object (`NotFound`, `Forbidden`, `Invalid`, ...)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def explained(error: KubectlError, what: str) -> ApihaError:
    """A refusal as an error with its exit code; `what` is what could not be done."""
    kind = NotPermitted if error.reason in ("Forbidden", "Unauthorized") else NoControlPlane
    return kind(f"{what}: {error}")


def parse_error(stderr: str) -> KubectlError | None:
    """What kubectl says on stderr, if it is an answer of the API server."""
    text = stderr.strip()
    if match := _SERVER_ERROR.search(text):
        return KubectlError(match["reason"], _one_line(match["text"]))
    if _UNAUTHORIZED in text:
        return KubectlError(
            "Unauthorized",
            "the API server does not accept the kubeconfig's credentials (Unauthorized): they have expired, or are of "
            "another cluster",
        )
    if match := _INVALID.search(text):
        return KubectlError("Invalid", _one_line(match["text"]))
    return None


class Kubectl:
    """The cluster, asked through kubectl."""

    def __init__(
        self, kubeconfig: Path | None, program: str = "kubectl", *, purpose: str = "--dry-run"
    ) -> None:
        """`kubeconfig` None leaves the choice to kubectl: $KUBECONFIG, ~/.kube/config, the Pod's own.

        Messages begin with `purpose`: the option or command that asks. Raises ConfigError for a file that cannot
        be read.
        """
        if kubeconfig is not None:
            read_text(kubeconfig, "a kubeconfig")
        self._purpose = purpose
        self._command = [program, *([f"--kubeconfig={kubeconfig}"] if kubeconfig is not None else [])]

    def run(
        self, *arguments: str, stdin: str | None = None, timeout: float = 15.0
    ) -> subprocess.CompletedProcess[str]:
        """One run; `timeout` (seconds) is for each request. Raises ConfigError where kubectl is missing, NoControlPlane
        where it hangs.
        """
        try:
            return subprocess.run(
                [*self._command, f"--request-timeout={timeout:g}s", *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_KUBECTL_TIMEOUT,
                check=False,
            )
        except FileNotFoundError:
            raise ConfigError(
                f"{self._purpose}: kubectl is not in PATH; expected it there: it asks the cluster, with your kubeconfig"
            ) from None
        except OSError as error:
            raise ConfigError(f"{self._purpose}: cannot run kubectl: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise NoControlPlane(
                f"{self._purpose}: kubectl has no answer after {_KUBECTL_TIMEOUT:g} s"
            ) from None

    def get(self, path: str) -> Any:
        """GET a path; raises KubectlError, NoControlPlane where none answers, ConfigError for a bad kubeconfig."""
        return self._json(self.run("get", "--raw", path))

    def text(self, path: str, *, timeout: float, server: str = "", server_name: str = "") -> str:
        """GET a path; `timeout` in seconds. With `server` (https://ADDRESS:PORT) from the API server there, whose
        certificate must be valid for `server_name`. Raises like `get`.
        """
        where = (f"--server={server}", f"--tls-server-name={server_name}") if server else ()
        return self._checked(self.run(*where, "get", "--raw", path, timeout=timeout))

    def merge(self, resource: str, name: str, namespace: str, patch: Mapping[str, Any]) -> None:
        """A JSON merge patch (RFC 7386). With `metadata.resourceVersion` in it the API server refuses it (reason
        `Conflict`) if the object has changed since. Raises like `get`.
        """
        where = (resource, name, f"--namespace={namespace}")
        self._checked(self.run("patch", *where, "--type=merge", "-p", json.dumps(patch)))

    def create(self, documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """POST objects and return what came of them; raises like `get`."""
        listing = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        answer = self._checked(self.run("create", "-f", "-", "-o", "yaml", stdin=json.dumps(listing)))
        return list(yaml.safe_load_all(answer))

    def apply_dry_run(self, document: Mapping[str, Any]) -> None:
        """What `kubectl apply` would do, as far as the API server says without doing it; raises like `get`."""
        self._checked(self.run("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(document)))

    def ca_of_kubeconfig(self) -> str | None:
        """The CA (PEM) that the kubeconfig's current context trusts, if it has one."""
        view = self._json(self.run("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        clusters = view.get("clusters") or [{}]
        data = clusters[0].get("cluster", {}).get("certificate-authority-data")
        try:
            return base64.b64decode(data, validate=True).decode("ascii") if data else None
        except ValueError:
            raise ConfigError(
                f"{self._purpose}: certificate-authority-data of your kubeconfig: not base64 of a PEM text"
            ) from None

    def _json(self, process: subprocess.CompletedProcess[str]) -> Any:
        """The document that kubectl printed; raises like `get`."""
        try:
            return json.loads(self._checked(process))
        except (ValueError, RecursionError):
            raise NoControlPlane(
                f"{self._purpose}: kubectl: the answer is not JSON; does its server (`kubectl config view --minify`) "
                "lead to an API server?"
            ) from None

    def _checked(self, process: subprocess.CompletedProcess[str]) -> str:
        if process.returncode == 0:
            return process.stdout
        if error := parse_error(process.stderr):
            raise error
        if _NO_KUBECONFIG.search(process.stderr):
            raise ConfigError(f"{self._purpose}: kubectl: {_said(process.stderr)}")
        if _NO_CLUSTER in process.stderr:
            raise ConfigError(
                f"{self._purpose}: kubectl knows no cluster: its kubeconfig is missing or empty (it tried "
                "localhost:8080); give one with --kubeconfig, or set KUBECONFIG"
            )
        raise NoControlPlane(
            f"{self._purpose}: kubectl: {_said(process.stderr) or f'exit code {process.returncode}'}"
        )


def _said(stderr: str) -> str:
    """What kubectl itself says, in one line: without the lines of its libraries, unless there is nothing else."""
    return _one_line(_KLOG.sub("", stderr)) or _one_line(stderr)


def _one_line(text: str) -> str:
    return one_line(text, 400)
