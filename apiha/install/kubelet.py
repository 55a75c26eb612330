"""Points kubelet at the name, and back: one value of kubelet.conf, changed only where the name is known to work."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apiha import files
from apiha.clock import Clock
from apiha.config import Config, require_vip
from apiha.documents import at
from apiha.durations import format_duration
from apiha.endpoint import Endpoint
from apiha.errors import ApihaError, ConfigError, ExitCode
from apiha.install.discover import as_kubelet
from apiha.install.kubeconfig import is_url_of, server_of, with_server, without_secrets
from apiha.install.units import systemctl
from apiha.log import Reporter
from apiha.node.learned import NotLearned, ask
from apiha.paths import KUBELET_KUBECONFIG, KUBELET_RECORD
from apiha.preview import Preview
from apiha.probe import Prober

SWAP_PATIENCE = 60.0  # seconds until the VIP must have proved itself to units that were started just now
LEASE_PATIENCE = 30.0  # seconds; kubelet renews its Lease every 10 s, and at its start
_LOOK_AGAIN = 1.0  # seconds
_NODE_USER = "system:node:"  # what every kubelet's user name begins with: plugin/pkg/auth/authorizer/node
# A node may read its own Lease, and no other: NodeRules and the node authorizer.
_LEASE_PATH = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/"


class KubeletNotPointed(ApihaError):
    """kubelet.conf is as it was, or as it was again."""

    exit_code = ExitCode.KUBELET


@dataclass(frozen=True)
class Record:
    """What was changed: the file, and its server before and after."""

    file: str
    before: str
    after: str


def wanted_server(config: Config) -> str:
    """The URL that kubelet is to use."""
    return f"https://{config.host}:{config.port}"


def other_server(config: Config, path: Path = KUBELET_KUBECONFIG) -> str | None:
    """The server that kubelet.conf names, if that is not the name; None if there is nothing to change.

    On a control-plane node there is not: kubeadm points kubelet at the node's own API server.
    """
    if config.role == "control-plane":
        return None
    try:
        server = server_of(_read(path)[0].decode("utf-8"))
    except (OSError, ValueError):
        return None
    return None if server is None or is_url_of(server, config.host, config.port) else server


class Switch:
    """Everything that touches the world is handed in: the file, the record, systemd, the clock."""

    def __init__(
        self,
        config: Config,
        report: Reporter,
        clock: Clock,
        *,
        path: Path = KUBELET_KUBECONFIG,
        record: Path = KUBELET_RECORD,
        restart: Callable[[], None] = lambda: systemctl("restart", "kubelet.service"),
        resolve: Callable[[str], list[str]] | None = None,
        preview: Preview | None = None,
    ) -> None:
        self.config = config
        self.report = report
        self.clock = clock
        self.path = path
        self.record = record
        self.restart = restart
        self.resolve = resolve or _addresses_of
        self.preview = preview

    def check(self) -> None:
        """Raises ConfigError where kubelet cannot be pointed at the name, whatever answers."""
        require_vip(self.config)
        if self.config.role == "control-plane":
            raise ConfigError("--kubelet: on a control-plane node kubelet uses the node's own API server")
        self._present()
        with self._kubelet():
            pass

    def point(self, *, patience: float = 0.0) -> None:
        """Have kubelet use the name, and see that it comes back; else put the old value back.

        For up to `patience` seconds it waits for the name to lead to the VIP. Raises ConfigError, KubeletNotPointed.
        """
        self.check()
        vip, wanted = require_vip(self.config), wanted_server(self.config)
        data, server = self._present()
        if is_url_of(server, self.config.host, self.config.port):
            self.report.info(f"{self.path} names {wanted} already")
            return
        try:
            changed = with_server(data.decode("utf-8"), wanted).encode()
        except ValueError as error:
            raise KubeletNotPointed(f"{self.path}: left as it is: {error}; change it by hand") from None
        record = Record(str(self.path), server, wanted)
        with self._kubelet() as (prober, node):
            self._wait_for_the_name(prober, vip, node, patience)
            if self.preview is not None:
                self._show(data, changed, record, self.preview)
                return
            with _endings_interrupt():
                took = self._switch(
                    record, data, changed, lambda: self._wait_for_the_lease(prober, vip, node)
                )
        self.report.info(f"kubelet uses the name: {node} renewed its Lease after {format_duration(took)}")

    def _switch(self, record: Record, data: bytes, changed: bytes, returned: Callable[[], float]) -> float:
        """Write, restart kubelet and wait until it has `returned`; else put the old value back."""
        self._keep(record)
        try:
            self._write(data, changed)
            self.report.info(
                f"{self.path}: server: {record.before} is now {record.after}; restarting kubelet"
            )
            return self._restarted(record, returned)
        except KeyboardInterrupt:  # during the write it was held until the file was whole
            self._put_back(record.before)
            raise

    def _restarted(self, record: Record, returned: Callable[[], float]) -> float:
        try:
            self.restart()
            return returned()
        except ApihaError as error:
            self._put_back(record.before)
            raise KubeletNotPointed(
                f"{error}: {self.path} names {record.before} again, and kubelet was restarted; `journalctl -u kubelet` "
                "may say why"
            ) from None

    def _show(self, data: bytes, changed: bytes, record: Record, preview: Preview) -> None:
        preview.file(self.record, _or_none(self.record), _document(record))
        preview.file(self.path, without_secrets(data), without_secrets(changed), context=0)
        preview.command("systemctl", "restart", "kubelet.service")

    def _present(self) -> tuple[bytes, str]:
        """The bytes of kubelet.conf and the server in it; raises ConfigError."""
        try:
            data = _read(self.path)[0]
            server = server_of(data.decode("utf-8"))
        except OSError as error:
            raise ConfigError(f"--kubelet: {self.path}: {error.strerror}; has this node joined?") from None
        except ValueError as error:
            raise ConfigError(f"--kubelet: {self.path}: not a kubeconfig: {error}") from None
        if server is None:
            raise ConfigError(f"--kubelet: {self.path} has no server")
        return data, server

    @contextmanager
    def _kubelet(self) -> Iterator[tuple[Prober, str]]:
        """A prober with kubelet's certificate and CA, and the node's name; raises ConfigError."""
        with as_kubelet(self.path, host=self.config.host) as identity:
            user = identity.user or ""
            if not user.startswith(_NODE_USER):
                raise ConfigError(
                    f"--kubelet: {self.path}: its certificate is for {user or 'nobody'}; expected {_NODE_USER}NAME"
                )
            yield identity.prober, user.removeprefix(_NODE_USER)

    def _wait_for_the_name(self, prober: Prober, vip: Endpoint, node: str, patience: float) -> None:
        """Return once the name leads to the VIP, and the VIP shows this node its Lease; raises KubeletNotPointed.

        A dry run asks the VIP, and once: the name leads there only after the units have run.
        """
        start = self.clock.monotonic()
        patience = patience if self.preview is None else 0.0
        while True:
            addresses = self.resolve(self.config.host)
            if vip.address not in addresses and self.preview is None:
                shown = ", ".join(addresses) or "nowhere"
                problem = f"{self.config.host} leads to {shown}, and not to the VIP {vip.address}"
            else:
                try:
                    _renewed_at(prober, vip, node)
                    return
                except NotLearned as error:
                    problem = f"kubelet's certificate got no answer through the VIP: {error}"
            waited = self.clock.monotonic() - start
            if waited >= patience:
                raise KubeletNotPointed(f"{self.path}: left as it is: {problem}")
            self.report.status(
                "waiting for the VIP before kubelet is pointed at it", waited, patience - waited
            )
            self.clock.sleep(_LOOK_AGAIN)

    def _wait_for_the_lease(self, prober: Prober, vip: Endpoint, node: str) -> float:
        """Seconds until the restarted kubelet renewed its Lease; raises KubeletNotPointed.

        The first answer after the restart is what the old one wrote; if the new one was faster, the next one counts.
        """
        start = self.clock.monotonic()
        asked = (vip, *self.config.control_plane)
        before = None
        while True:
            for endpoint in asked:
                try:
                    now = _renewed_at(prober, endpoint, node)
                except NotLearned as error:
                    self.report.debug(f"no Lease: {error}")
                    continue
                waited = self.clock.monotonic() - start
                before = before or now
                if now != before:
                    return waited
                break
            waited = self.clock.monotonic() - start
            if waited >= LEASE_PATIENCE:
                raise KubeletNotPointed(
                    f"kubelet did not renew the Lease of {node} within {LEASE_PATIENCE:.0f} s"
                )
            self.report.status("waiting for kubelet to renew its Lease", waited, LEASE_PATIENCE - waited)
            self.clock.sleep(_LOOK_AGAIN)

    def _keep(self, record: Record) -> None:
        try:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            _replace(self.record, _document(record))
        except OSError as error:
            raise KubeletNotPointed(
                f"{self.path}: left as it is: cannot write {self.record}: {error.strerror}"
            ) from None

    def _write(self, before: bytes, after: bytes) -> None:
        try:
            data, status, place = _read(self.path)
            if data != before:
                raise files.ChangedMeanwhileError
            files.replace(place, after, status, before)
        except (OSError, files.ChangedMeanwhileError) as error:
            self.record.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or "another program wrote it just now; run it again"
            raise KubeletNotPointed(f"{self.path}: left as it is: {reason}") from None

    def _put_back(self, server: str) -> None:
        self.report.clear_status()
        with files.signals_held():  # a second ^C would leave it half done
            try:
                put_back(self.report, record=self.record, place=Path, restart=self.restart)
                self.record.unlink(missing_ok=True)
            except (ApihaError, OSError) as error:
                self.report.warning(f"{self.path}: set server: {server} by hand and restart kubelet: {error}")


@contextmanager
def _endings_interrupt() -> Iterator[None]:
    """SIGTERM, and the SIGHUP of a lost session, raise KeyboardInterrupt as SIGINT does: kubelet gets its server back.

    Only the main thread can set handlers; elsewhere, and where a signal is ignored (nohup), nothing changes. A handler
    that was there before is back afterwards.
    """

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: signal.getsignal(number) for number in numbers}
    changed = {
        number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)
    }
    try:
        for number in changed:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)


def put_back(
    report: Reporter,
    *,
    record: Path,
    place: Callable[[str], Path],
    restart: Callable[[], None],
    preview: Preview | None = None,
) -> None:
    """Undo what `Switch.point` did, if the file still says so; `place` tells where a path of the machine lies.

    Raises ApihaError, OSError.
    """
    try:
        document = json.loads(record.read_bytes())
        kept = Record(*(str(document[key]) for key in ("file", "before", "after")))
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        report.warning(f"{record}: damaged ({error}): look at the server in {KUBELET_KUBECONFIG} yourself")
        return
    path = place(kept.file)
    try:
        data, status, target = _read(path)
        text = data.decode("utf-8")
        if server_of(text) != kept.after:
            report.warning(f"kept {path}: its server is not {kept.after} any more")
            return
        changed = with_server(text, kept.before).encode()
    except FileNotFoundError:
        return
    except ValueError as error:
        report.warning(f"kept {path}: {error}")
        return
    if preview is not None:
        preview.file(path, without_secrets(data), without_secrets(changed), context=0)
    else:
        try:
            files.replace(target, changed, status, data)
        except files.ChangedMeanwhileError:
            raise ApihaError(f"{path}: another program wrote it just now; run it again") from None
    report.info(f"{path}: server: is {kept.before} again")
    restart()


def _renewed_at(prober: Prober, endpoint: Endpoint, node: str) -> str:
    """When the node's Lease was renewed last, as the API server writes it; raises NotLearned."""
    status, lease = ask(prober, endpoint, _LEASE_PATH + node)
    renewed = at(lease, "spec", "renewTime")
    if status != 200 or not isinstance(renewed, str):
        raise NotLearned(f"{endpoint} answered HTTP {status} for the Lease of {node}")
    return renewed


def _addresses_of(name: str) -> list[str]:
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def _read(path: Path) -> tuple[bytes, Any, str]:
    """Bytes, status and real place of a file; raises OSError, FileNotFoundError too."""
    place = os.path.realpath(path)
    data, status = files.read(place)
    if status is None:
        raise FileNotFoundError(2, os.strerror(2), str(path))
    return data, status, place


def _or_none(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _document(record: Record) -> bytes:
    return f"{json.dumps(asdict(record), indent=1)}\n".encode()


def _replace(path: Path, data: bytes) -> None:
    status = files.status_of(str(path))
    files.replace(str(path), data, status)
