"""The balancers that apiha is compared with, and that can be its VIP: the real programs, configured as documented.

- haproxy on the worker: kubespray's roles/kubernetes/node/templates/loadbalancer/haproxy.cfg.j2
- nginx on the worker: kubespray's nginx.conf.j2 (its default)
- keepalived and haproxy on the control planes: kubeadm's docs/ha-considerations.md

Timings, thresholds and balancing are theirs; names, addresses and the place of pid files are ours. On machines of their
own (`places`) they are what a VIP is: on the port that the nodes dial.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.netns import Host

FLOATING = "10.0.0.50"  # keepalived's address
FLOATING_PORT = 8443  # haproxy's on the control planes: 6443 is the API server's
PROGRAMS = {"haproxy": ["haproxy"], "nginx": ["nginx"], "keepalived": ["keepalived", "haproxy", "curl"]}

_HAPROXY_WORKER = """global
    maxconn 4000
    stats socket {folder}/stats.sock mode 600
defaults
    mode http
    option http-server-close
    option redispatch
    retries 5
    timeout http-request 5m
    timeout queue 5m
    timeout connect 30s
    timeout client 15m
    timeout server 15m
    timeout http-keep-alive 30s
    timeout check 30s
    maxconn 4000
frontend api
    bind {listen}:{port}
    mode tcp
    default_backend planes
backend planes
    mode tcp
    balance leastconn
    default-server inter 15s downinter 15s rise 2 fall 2 slowstart 60s maxconn 1000 maxqueue 256 weight 100
    option httpchk GET /healthz
    http-check expect status 200
{servers}
"""
_NGINX_WORKER = """{module}
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
worker_processes 2;
worker_shutdown_timeout 10s;
events {{ multi_accept on; use epoll; worker_connections 16384; }}
stream {{
    upstream planes {{
        least_conn;
{servers}
    }}
    server {{
        listen {listen}:{port};
        proxy_pass planes;
        proxy_timeout 10m;
        proxy_connect_timeout 1s;
    }}
}}
"""
_HAPROXY_PLANE = """global
    stats socket {folder}/stats.sock mode 600
defaults
    mode http
    option http-server-close
    option redispatch
    retries 1
    timeout http-request 10s
    timeout queue 20s
    timeout connect 5s
    timeout client 35s
    timeout server 35s
    timeout http-keep-alive 10s
    timeout check 10s
frontend api
    bind *:{port}
    mode tcp
    default_backend planes
backend planes
    option httpchk
    http-check connect ssl
    http-check send meth GET uri /healthz
    http-check expect status 200
    mode tcp
    balance roundrobin
{servers}
"""
_KEEPALIVED = """global_defs {{
    router_id LVS_DEVEL
    script_user root
}}
vrrp_script check_apiserver {{
    script "{folder}/check_apiserver.sh"
    interval 3
    weight -2
    fall 10
    rise 2
}}
vrrp_instance VI_1 {{
    state {state}
    interface eth0
    virtual_router_id 51
    priority {priority}
    authentication {{
        auth_type PASS
        auth_pass 42
    }}
    virtual_ipaddress {{
        {address}
    }}
    track_script {{
        check_apiserver
    }}
}}
"""
_CHECK = """#!/bin/sh
curl -sfk --max-time 2 https://localhost:{port}/healthz -o /dev/null || exit 1
"""


def absent(balancer: str) -> list[str]:
    """The programs of this balancer that are not installed."""
    return [program for program in PROGRAMS.get(balancer, []) if shutil.which(program, path=_PATH) is None]


_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Balancer:
    """One of them, running; `close` ends it.

    `port` is the API servers'. `places` are the machines that it runs on: without them keepalived runs on the control
    planes, and the others on the worker's loopback.
    """

    def __init__(
        self,
        kind: str,
        worker: Host,
        planes: Sequence[Host],
        folder: Path,
        port: int,
        *,
        places: Sequence[Host] = (),
    ) -> None:
        self.kind = kind
        self.worker = worker
        self.planes = list(planes)
        self.places = list(places) or (self.planes if kind == "keepalived" else [worker])
        self._listen = places[0].address if places else "127.0.0.1"
        self._floating_port = port if places else FLOATING_PORT
        self._folder = folder
        self._processes: list[tuple[Host, subprocess.Popen[Any]]] = []
        folder.mkdir(parents=True)
        if kind == "keepalived":
            for number, place in enumerate(self.places):
                self._start_floating(number, place, port)
        else:
            self._start_single(kind, port)

    @property
    def name_points_at(self) -> tuple[str, int]:
        """The address that clients are given for the name, and the port."""
        return (FLOATING, self._floating_port) if self.kind == "keepalived" else (self._listen, 6443)

    def _servers(self, port: int, *, line: str) -> str:
        return "\n".join(
            line.format(name=plane.name, address=plane.address, port=port) for plane in self.planes
        )

    def _start_single(self, kind: str, port: int) -> None:
        if kind == "haproxy":
            line = "    server {name} {address}:{port} check check-ssl verify none"
            text = _HAPROXY_WORKER.format(
                folder=self._folder, listen=self._listen, port=port, servers=self._servers(port, line=line)
            )
            command = ["haproxy", "-db", "-f", self._write(self._folder, "haproxy.cfg", text)]
        else:
            module = next(Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so"), None)
            text = _NGINX_WORKER.format(
                module=f"load_module {module};" if module else "",
                folder=self._folder,
                listen=self._listen,
                port=port,
                servers=self._servers(port, line="        server {address}:{port};"),
            )
            path = self._write(self._folder, "nginx.conf", text)
            command = ["nginx", "-c", path, "-g", "daemon off;", "-p", str(self._folder)]
        self._start(self.places[0], kind, command)

    def _start_floating(self, number: int, place: Host, port: int) -> None:
        folder = self._folder / place.name
        folder.mkdir()
        line = "    server {name} {address}:{port} check verify none"
        text = _HAPROXY_PLANE.format(
            folder=folder, port=self._floating_port, servers=self._servers(port, line=line)
        )
        self._start(
            place, f"haproxy-{place.name}", ["haproxy", "-db", "-f", self._write(folder, "haproxy.cfg", text)]
        )
        script = Path(self._write(folder, "check_apiserver.sh", _CHECK.format(port=self._floating_port)))
        script.chmod(0o755)
        text = _KEEPALIVED.format(
            folder=folder,
            state="BACKUP" if number else "MASTER",
            priority=100 if number else 101,
            address=FLOATING,
        )
        files = ["-f", self._write(folder, "keepalived.conf", text), "-p", f"{folder}/keepalived.pid"]
        self._start(
            place,
            f"keepalived-{place.name}",
            ["keepalived", "-n", "-l", "-P", *files, "-r", f"{folder}/vrrp.pid"],
        )

    def _write(self, folder: Path, name: str, text: str) -> str:
        path = folder / name
        path.write_text(text)
        return str(path)

    def _start(self, host: Host, name: str, command: list[str]) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            process = host.popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PATH": _PATH}
            )
        self._processes.append((host, process))

    def answers(self) -> bool:
        """Whether clients on the worker can connect."""

        def connect() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(self.name_points_at, 1.0):
                return True
            return False

        return self.worker.call(connect)

    def holder(self) -> int:
        """Which of its places holds keepalived's address."""
        for number, place in enumerate(self.places):
            if f"{FLOATING}/" in place.run(["ip", "-4", "addr", "show", "eth0"]).stdout:
                return number
        raise RuntimeError(f"nobody holds {FLOATING}")

    def backend_of(self, port: int) -> str | None:
        """The control plane's address that a connection from the worker's local `port` was forwarded to."""
        if self.kind == "nginx":
            # `info` instead of `notice` in its log is for this: it tells which pair belongs together.
            text = (self._folder / "error.log").read_text("utf-8", "replace")
            numbers = re.findall(rf"\*(\d+) client 127\.0\.0\.1:{port} connected to", text)
            found = re.findall(rf"\*{numbers[-1]} proxy \S+ connected to (\S+):\d+", text) if numbers else []
            return str(found[-1]) if found else None
        text = self._ask("show sess all", self._stats())
        for session in re.split(r"(?m)^0x", text):
            if re.search(rf"source=\S+:{port}\b", session) and (
                match := re.search(r"\bserver=\S+ \(id=\d+\) addr=(\S+):\d+", session)
            ):
                return match[1]
        return None

    def _stats(self) -> Path:
        if self.kind == "keepalived":
            return self._folder / self.places[self.holder()].name / "stats.sock"
        return self._folder / "stats.sock"

    @staticmethod
    def _ask(command: str, path: Path) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(f"{command}\n".encode())
            parts = []
            while part := client.recv(65536):
                parts.append(part)
        return b"".join(parts).decode("utf-8", "replace")

    def on_worker(self) -> tuple[int, int]:
        """How many processes run on the worker for it, and their resident memory in bytes."""
        pids = [process.pid for host, process in self._processes if host is self.worker]
        found = [pid for pid in _with_children(pids) if Path(f"/proc/{pid}/status").exists()]
        return len(found), sum(_resident(pid) for pid in found)

    def close(self) -> None:
        """End every process, and take the address away where it is left behind."""
        for _, process in self._processes:
            for pid in reversed(_with_children([process.pid])):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 15 if self.kind == "keepalived" else 9)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5.0)
            process.kill()
            process.wait()
        for place in self.places if self.kind == "keepalived" else ():
            place.run(["ip", "addr", "del", f"{FLOATING}/32", "dev", "eth0"])


def _with_children(pids: Sequence[int]) -> list[int]:
    found: list[int] = []
    for pid in pids:
        found.append(pid)
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found += _with_children([int(child) for child in children])
    return found


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
    return 0
