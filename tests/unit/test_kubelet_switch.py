"""`install --kubelet`: kubelet.conf is changed where the name works, and put back where kubelet does not return."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apiha import files
from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.errors import ApihaError, ConfigError, ExitCode
from apiha.install.kubelet import KubeletNotPointed, Switch, other_server, put_back
from apiha.log import Reporter
from apiha.preview import Preview
from tests.support.api_server import Answer, ApiServer
from tests.support.control_plane import DEFAULT_HOST, Authority
from tests.support.joined import LEASE, kubeconfig, lease
from tests.support.world import FakeClock

OLD = "https://10.0.0.11:6443"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The cluster's CA."""
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def vip(authority: Authority) -> Iterator[ApiServer]:
    """The API server as the VIP shows it: it wants a client certificate, and has the node's Lease."""
    with ApiServer(authority, client_ca=True) as server:
        server.put(LEASE, lease("2026-11-24T12:00:00.000000Z"))
        yield server


class Machine:
    """kubelet.conf, a kubelet that `restart` restarts, and where the name leads."""

    def __init__(self, directory: Path, authority: Authority, vip: ApiServer) -> None:
        self.path = directory / "kubelet.conf"
        self.path.write_text(kubeconfig(authority, OLD))
        self.path.chmod(0o600)
        self.before = self.path.read_bytes()
        self.record = directory / "state/kubelet.json"
        self.vip = vip
        self.clock = FakeClock()
        self.log = io.StringIO()
        self.config = Config(vip=vip.address, port=vip.port)
        self.restarts: list[str] = []
        self.on_restart: Callable[[], None] = lambda: None
        self.addresses = [vip.address]

    @property
    def server(self) -> str:
        """What kubelet.conf names."""
        return next(
            line.split(": ")[1]
            for line in self.path.read_text().splitlines()
            if line.lstrip().startswith("server:")
        )

    @property
    def name(self) -> str:
        """What it should name."""
        return f"https://{DEFAULT_HOST}:{self.vip.port}"

    def switch(self, preview: Preview | None = None) -> Switch:
        """The switch of this machine."""

        def restart() -> None:
            self.restarts.append(self.server)
            self.on_restart()

        return Switch(
            self.config,
            self.reporter,
            self.clock,
            path=self.path,
            record=self.record,
            restart=restart,
            resolve=lambda _: self.addresses,
            preview=preview,
        )

    @property
    def reporter(self) -> Reporter:
        """What is said ends up in `log`."""
        return Reporter(self.log, clock=self.clock)

    def renew_later(self, delay: float) -> None:
        """kubelet renews its Lease that long after a restart."""
        sleep = self.clock.sleep
        at = self.clock.time + delay

        def and_renew(seconds: float) -> None:
            sleep(seconds)
            if self.clock.time >= at:
                self.vip.put(LEASE, lease(f"2026-11-24T12:00:{at % 60:09.6f}Z"))

        self.clock.sleep = and_renew  # type: ignore[method-assign]

    def undo(self, preview: Preview | None = None) -> None:
        """What `uninstall` does."""
        put_back(
            self.reporter,
            record=self.record,
            place=Path,
            restart=lambda: self.restarts.append(self.server),
            preview=preview,
        )


@pytest.fixture
def machine(tmp_path: Path, authority: Authority, vip: ApiServer) -> Machine:
    """A node that joined by the address of a control plane."""
    return Machine(tmp_path, authority, vip)


def test_kubelet_is_pointed_at_the_name_and_its_lease_awaited(machine: Machine) -> None:
    """Only the value changes; mode and owner stay; the old value is kept; kubelet was restarted with the new one."""
    status = machine.path.stat()
    machine.on_restart = lambda: machine.renew_later(4.0)
    machine.switch().point()
    assert machine.path.read_bytes() == machine.before.replace(OLD.encode(), machine.name.encode())
    after = machine.path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (status.st_mode, status.st_uid, status.st_gid)
    assert machine.restarts == [machine.name]
    assert json.loads(machine.record.read_text()) == {
        "file": str(machine.path),
        "before": OLD,
        "after": machine.name,
    }
    assert "worker-1 renewed its Lease after 4.0s" in machine.log.getvalue()


def test_uninstall_gives_the_old_value_back(machine: Machine) -> None:
    """To the byte, and restarts kubelet."""
    machine.on_restart = lambda: machine.renew_later(1.0)
    machine.switch().point()
    machine.undo()
    assert machine.path.read_bytes() == machine.before
    assert machine.restarts == [machine.name, OLD]


def test_uninstall_leaves_what_somebody_changed_since(machine: Machine) -> None:
    """A server that is not ours any more stays, and so does everything else; it is named."""
    machine.on_restart = lambda: machine.renew_later(1.0)
    machine.switch().point()
    machine.path.write_text(machine.path.read_text().replace(machine.name, "https://lb.example.com"))
    text = machine.path.read_text()
    machine.undo()
    assert machine.path.read_text() == text
    assert len(machine.restarts) == 1
    assert f"kept {machine.path}" in machine.log.getvalue()


def test_uninstall_without_a_switch_does_nothing(machine: Machine) -> None:
    """No record, no change, no word; a damaged one is named."""
    machine.undo()
    assert (machine.restarts, machine.log.getvalue()) == ([], "")
    machine.record.parent.mkdir()
    machine.record.write_text("{}")
    machine.undo()
    assert machine.restarts == []
    assert "damaged" in machine.log.getvalue()


def test_a_kubelet_that_does_not_come_back_gets_its_old_value_back(machine: Machine) -> None:
    """After 30 s without a renewal: the very bytes of before, kubelet restarted, exit code 11, no record left."""
    with pytest.raises(KubeletNotPointed) as raised:
        machine.switch().point()
    assert raised.value.exit_code is ExitCode.KUBELET
    assert "did not renew the Lease of worker-1 within 30 s" in str(raised.value)
    assert f"names {OLD} again" in str(raised.value)
    assert machine.path.read_bytes() == machine.before
    assert machine.restarts == [machine.name, OLD]
    assert not machine.record.exists()
    assert 30 <= machine.clock.time - 1000.0 <= 32


def test_a_restart_that_fails_is_undone(machine: Machine) -> None:
    """Where there is no such unit, say; that the second one fails as well is told."""

    def fail() -> None:
        raise ApihaError("Unit kubelet.service not found")

    machine.on_restart = fail
    with pytest.raises(KubeletNotPointed, match=r"Unit kubelet\.service not found"):
        machine.switch().point()
    assert machine.path.read_bytes() == machine.before
    assert "by hand" in machine.log.getvalue()


def test_an_interrupt_during_the_wait_is_undone(machine: Machine) -> None:
    """^C leaves nothing half done."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    machine.on_restart = lambda: setattr(machine.clock, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        machine.switch().point()
    assert machine.path.read_bytes() == machine.before
    assert machine.restarts == [machine.name, OLD]


@pytest.fixture
def handler_of() -> Iterator[Callable[[signal.Signals, Any], None]]:
    """Set a signal's handler for one test; the one of before (coverage has one for SIGTERM) comes back."""
    before: dict[signal.Signals, Any] = {}

    def set_handler(number: signal.Signals, handler: Any) -> None:
        before[number] = signal.signal(number, handler)

    yield set_handler
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("handler", [signal.SIG_DFL, lambda *_: None], ids=["default", "another"])
def test_a_session_that_is_lost_is_undone_as_well(
    machine: Machine, handler_of: Callable[[signal.Signals, Any], None], number: signal.Signals, handler: Any
) -> None:
    """Its signal ends others at once, a second one leaves kubelet nowhere half way, and the old handler is back."""
    handler_of(number, handler)
    machine.on_restart = lambda: os.kill(os.getpid(), number)
    with pytest.raises(KeyboardInterrupt):
        machine.switch().point()
    assert machine.path.read_bytes() == machine.before
    assert machine.restarts == [machine.name, OLD]
    assert not machine.record.exists()
    assert signal.getsignal(number) is handler


def test_an_ignored_hangup_stays_ignored(
    machine: Machine, handler_of: Callable[[signal.Signals, Any], None]
) -> None:
    """`nohup apiha install --kubelet` outlives its session."""
    handler_of(signal.SIGHUP, signal.SIG_IGN)

    def hang_up() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        machine.renew_later(1.0)

    machine.on_restart = hang_up
    machine.switch().point()
    assert machine.restarts == [machine.name]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_an_interrupt_during_the_write_is_undone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when the file is whole; kubelet was not restarted yet."""
    replace = files.replace
    writes: list[str] = []

    def interrupted(place: str, *rest: Any) -> None:
        replace(place, *rest)
        if place == str(machine.path) and not writes:
            writes.append(place)
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        machine.switch().point()
    assert writes
    assert machine.path.read_bytes() == machine.before


def test_nothing_is_touched_while_the_name_leads_elsewhere(machine: Machine) -> None:
    """Not to the VIP: kubelet.conf stays, kubelet runs on."""
    machine.addresses = ["10.0.0.12"]
    with pytest.raises(KubeletNotPointed, match=r"leads to 10.0.0.12, and not to the VIP"):
        machine.switch().point(patience=3.0)
    assert machine.path.read_bytes() == machine.before
    assert machine.restarts == []
    assert machine.clock.time - 1000.0 == pytest.approx(3.0)
    assert machine.vip.seen == []


def test_it_waits_for_the_swap(machine: Machine) -> None:
    """Units that were started just now need a moment."""
    machine.addresses = []
    sleep = machine.clock.sleep

    def swap(seconds: float) -> None:
        sleep(seconds)
        if machine.clock.time > 1005:
            machine.addresses = [machine.vip.address]

    machine.clock.sleep = swap  # type: ignore[method-assign]
    machine.on_restart = lambda: machine.renew_later(1.0)
    machine.switch().point(patience=60.0)
    assert machine.server == machine.name


@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_nothing_is_touched_while_kubelets_certificate_gets_no_answer(machine: Machine, status: int) -> None:
    """Whatever the VIP leads to, it does not take this node for what it is."""
    machine.vip.next_answers.append(Answer(status))
    with pytest.raises(KubeletNotPointed, match=f"answered HTTP {status} for the Lease of worker-1"):
        machine.switch().point()
    assert machine.path.read_bytes() == machine.before
    assert machine.restarts == []


def test_nothing_is_touched_for_an_impostor(machine: Machine, authority: Authority) -> None:
    """A VIP whose certificate is not from the CA in kubelet.conf is not what kubelet could use."""
    machine.vip.use(authority.issue("wrong_ca"))
    with pytest.raises(KubeletNotPointed, match="certificate"):
        machine.switch().point()
    assert machine.path.read_bytes() == machine.before
    assert machine.vip.seen == []


def test_the_lease_may_be_read_at_a_control_plane(machine: Machine, authority: Authority) -> None:
    """A VIP that hiccups while kubelet restarts is no reason to go back."""
    with ApiServer(authority, client_ca=True) as plane:
        plane.put(LEASE, lease("2026-11-24T11:00:00.000000Z"))
        machine.config = Config(
            vip=machine.vip.address,
            port=machine.vip.port,
            control_plane=(Endpoint(plane.address, plane.port),),
        )

        def hiccup() -> None:
            machine.vip.__exit__()
            sleep = machine.clock.sleep

            def renew(seconds: float) -> None:
                sleep(seconds)
                plane.put(LEASE, lease("2026-11-24T12:00:09.000000Z"))

            machine.clock.sleep = renew  # type: ignore[method-assign]

        machine.on_restart = hiccup
        machine.switch().point()
    assert machine.server == machine.name


def test_done_already_is_done(machine: Machine) -> None:
    """A second run changes nothing and restarts nothing."""
    machine.on_restart = lambda: machine.renew_later(1.0)
    machine.switch().point()
    status = os.stat(machine.path)
    machine.switch().point()
    assert os.stat(machine.path).st_ino == status.st_ino
    assert len(machine.restarts) == 1
    assert "already" in machine.log.getvalue()


def test_a_link_is_followed(machine: Machine, tmp_path: Path) -> None:
    """The file that it leads to is changed, and the link stays one."""
    real = tmp_path / "real.conf"
    machine.path.rename(real)
    machine.path.symlink_to(real)
    machine.on_restart = lambda: machine.renew_later(1.0)
    machine.switch().point()
    assert machine.path.is_symlink()
    assert machine.name in real.read_text()


def test_a_dry_run_shows_the_one_line_and_no_key(machine: Machine) -> None:
    """The name need not lead anywhere yet: the units that a dry run does not start bring that about."""
    machine.addresses = []
    shown: list[str] = []
    machine.switch(Preview(shown.append)).point(patience=60.0)
    text = "\n".join(shown)
    assert f"-    server: {OLD}\n+    server: {machine.name}\n" in text
    assert "client-key-data" not in text
    assert "would run: systemctl restart kubelet.service" in text
    assert machine.path.read_bytes() == machine.before
    assert not machine.record.exists()
    assert machine.restarts == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"vip": None}, "vip: not set"), ({"role": "control-plane"}, "control-plane node")],
)
def test_where_it_makes_no_sense(machine: Machine, settings: dict[str, str], words: str) -> None:
    """It is a bad configuration, told before anything is asked."""
    machine.config = Config(**{"vip": "10.96.0.100", **settings})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=words):
        machine.switch().check()


def test_a_certificate_that_is_no_nodes(machine: Machine, authority: Authority) -> None:
    """kubelet.conf of somebody else: it says whose."""
    machine.path.write_text(kubeconfig(authority, OLD, user="kubernetes-admin"))
    with pytest.raises(
        ConfigError, match="its certificate is for kubernetes-admin; expected system:node:NAME"
    ):
        machine.switch().check()


def test_before_a_node_has_joined(machine: Machine) -> None:
    """There is nothing to point."""
    machine.path.unlink()
    with pytest.raises(ConfigError, match="has this node joined"):
        machine.switch().check()
    assert other_server(machine.config, machine.path) is None


def test_whether_there_is_something_to_ask(machine: Machine) -> None:
    """kubelet.conf names something else, and this is a worker."""
    assert other_server(machine.config, machine.path) == OLD
    assert other_server(Config(role="control-plane"), machine.path) is None
    machine.path.write_text(machine.path.read_text().replace(OLD, f"{machine.name}/"))
    assert other_server(machine.config, machine.path) is None
