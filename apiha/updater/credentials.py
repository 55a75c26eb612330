"""Who the updater is, and which CA the API servers prove themselves with: read from files, and read again when
one of them changes.

Reads: a kubeconfig and the files that it names, or the Pod's service account. Writes: nothing.

kubelet replaces a Pod's token before its hour is over, and its copy of the CA when the cluster's changes; whoever
manages a kubeconfig replaces certificates. Each request and each probe starts with `CredentialFiles.current`, which
looks whether a file has changed (a stat(2) each). What cannot be used, such as a certificate whose key is still the
old one, is reported, and the credentials read before stay in use.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from apiha.config import read_text
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError
from apiha.probe import Prober, ProbeResult
from apiha.trust import make_ssl_context, pem_file, read_kubeconfig

# Where kubelet puts them: https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Credentials:
    """One reading of the files.

    `server` is the configured API server's URL without a slash at its end, `server_name` the name that its
    certificate must carry if not the URL's host. `ca`, `client_cert` and `client_key` are PEM texts; `ca` None: the
    kubeconfig switches verification off. `context` is what the PEM texts come to.
    """

    server: str
    server_name: str | None = None
    ca: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    token: str | None = field(default=None, repr=False)
    proxy: str | None = None
    context: ssl.SSLContext = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError for a CA, certificate or key that does not load."""
        object.__setattr__(self, "context", self._make_context(self.client_cert))

    def _make_context(self, client_cert: str | None) -> ssl.SSLContext:
        with contextlib.ExitStack() as stack:
            path = None
            if client_cert is not None:
                path = stack.enter_context(pem_file(client_cert, self.client_key))
            try:
                return make_ssl_context(self.ca, client_cert=path, insecure=self.ca is None)
            except ValueError as error:  # the file in memory has no name that means anything
                raise ValueError(str(error).replace(f" {path}", "")) from None

    def bearer(self) -> dict[str, str]:
        """The header that carries the token, if that is who we are."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def prober(self, host: str, timeout: float) -> Prober:
        """A prober with these credentials for control planes whose certificates carry `host`.

        It shows who we are, since a control plane where anonymous access is off tells nobody else whether it is ready;
        but to a server that need not prove itself nothing is shown.
        """
        if self.ca is None:
            return Prober(host, self._make_context(None), timeout)
        return Prober(host, self.context, timeout, headers=self.bearer)


class CredentialFiles:
    """The credentials as of now. Thread-safe."""

    def __init__(
        self,
        kubeconfig: Path | None,
        *,
        folder: Path = SERVICE_ACCOUNT,
        environ: Mapping[str, str] = os.environ,
        on_problem: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """From a kubeconfig's current context, or from the Pod's service account if `kubeconfig` is None.

        Raises ConfigError if they cannot be used now; `on_problem` hears in one line why they cannot be used later,
        and None once they can.
        """
        self._kubeconfig = kubeconfig
        self._folder = folder
        self._environ = environ
        self._on_problem = on_problem
        self._problem: str | None = None
        self._lock = threading.Lock()
        self._stamps: list[tuple[int, ...] | None] | None = None  # None: read at the next look
        self._current, self._files = self._read()

    @property
    def current(self) -> Credentials:
        """The last good reading; the same object for as long as nothing changes."""
        if self._stamps is not None and self._stamps == _stamps(self._files):
            return self._current
        with self._lock:
            # Taken before the files are read: what changes meanwhile is read again.
            stamps = _stamps(self._files)
            problem = None
            try:
                fresh, files = self._read()
            except ConfigError as error:
                problem = f"{error}; the credentials read before stay in use"
                self._stamps = None
            else:
                self._stamps = stamps if files == self._files else None
                self._files = files
                if fresh != self._current:
                    self._current = fresh
            news, self._problem = problem != self._problem, problem
            current = self._current
        if news:
            self._on_problem(problem)
        return current

    def _read(self) -> tuple[Credentials, tuple[Path, ...]]:
        if self._kubeconfig is not None:
            return _of_kubeconfig(self._kubeconfig)
        return _of_service_account(self._folder, self._environ)


class CurrentProber:
    """Probes with the credentials of the moment: a CA or a token that was replaced counts from the next probe on."""

    def __init__(self, files: CredentialFiles, host: str, timeout: float) -> None:
        """`host` is the name that certificates must carry, `timeout` (seconds) bounds a probe."""
        self.host = host
        self._files = files
        self._timeout = timeout
        self._made: tuple[Credentials, Prober] | None = None

    def __call__(self, endpoint: Endpoint) -> ProbeResult:
        """Ask one address; never raises."""
        credentials, made = self._files.current, self._made
        if made is None or made[0] is not credentials:
            made = self._made = (credentials, credentials.prober(self.host, self._timeout))
        return made[1].probe(endpoint)


def _stamps(files: Iterable[Path]) -> list[tuple[int, ...] | None]:
    """What changes whenever one of the files does, a symlink on the way included; None for one that is not there."""
    found: list[tuple[int, ...] | None] = []
    for path in files:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append(
                (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            )
    return found


def _of_kubeconfig(path: Path) -> tuple[Credentials, tuple[Path, ...]]:
    """The credentials of a kubeconfig, and the files that they come from; raises ConfigError."""
    found = read_kubeconfig(path)
    if found.unsupported:
        raise ConfigError(
            f"{path}: the user authenticates with {', '.join(found.unsupported)}, which the updater does not support; "
            "expected a token, a tokenFile or a client-certificate"
        )
    if found.server is None or _scheme(found.server) != "https":
        raise ConfigError(f"{path}: server: {found.server or 'not set'}; expected https://ADDRESS:PORT")
    if found.ca is None and not found.insecure:
        raise ConfigError(
            f"{path}: no certificate-authority: no control plane could prove itself; expected the cluster's CA"
        )
    if found.proxy is not None and _scheme(found.proxy) not in ("http", "https"):
        raise ConfigError(f"{path}: proxy-url: {found.proxy}; expected http://ADDRESS:PORT")
    if found.proxy is not None and found.server_name is not None:
        # httpcore's tunnel verifies the certificate for the URL's host.
        raise ConfigError(f"{path}: tls-server-name is not supported together with proxy-url")
    token, files = found.token, found.files
    if found.token_file is not None:
        token, files = _token(found.token_file), (*files, found.token_file)
    elif token is not None:
        token = _checked_token(token, path)
    with _named(path):
        credentials = Credentials(
            server=found.server.rstrip("/"),
            server_name=found.server_name,
            ca=None if found.insecure else found.ca,
            client_cert=found.client_cert,
            client_key=found.client_key,
            token=token,
            proxy=found.proxy,
        )
    return credentials, files


def _of_service_account(folder: Path, environ: Mapping[str, str]) -> tuple[Credentials, tuple[Path, ...]]:
    """The credentials that kubelet gives to a Pod, and the files that they come from; raises ConfigError."""
    host, port = (environ.get(f"KUBERNETES_SERVICE_{key}") for key in ("HOST", "PORT"))
    if not host or not port:
        raise ConfigError("not in a cluster (KUBERNETES_SERVICE_HOST is not set); expected --kubeconfig FILE")
    address = f"[{host}]" if ":" in host else host
    token, ca = folder / "token", folder / "ca.crt"
    with _named(ca):
        credentials = Credentials(
            server=f"https://{address}:{port}", ca=read_text(ca, "the cluster's CA"), token=_token(token)
        )
    return credentials, (token, ca)


def _token(path: Path) -> str:
    return _checked_token(read_text(path, "the token").strip(), path)


def _checked_token(token: str, path: Path) -> str:
    """The token if an HTTP header can carry it; raises ConfigError."""
    if not token or not token.isascii() or not token.isprintable():
        raise ConfigError(f"{path}: not a token; expected one line of ASCII text")
    return token


def _scheme(url: str) -> str:
    """The scheme of a URL; "" for what is not a URL (a bracket left open, say)."""
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Make a ValueError of what was read a ConfigError that names the file."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
