"""One control plane, or one forwarder, as a process of its own; needs nothing but the standard library."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.control_plane import BEHAVIOURS, Certificate, ControlPlane, TcpForwarder
from tests.support.control_plane.tcp import TcpServer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one control plane, or one forwarder, until SIGTERM or SIGINT; then print its counters as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.control_plane", description=main.__doc__)
    parser.add_argument("--listen", required=True, metavar="ADDR:PORT")
    parser.add_argument("--behaviour", default="ready", choices=sorted(BEHAVIOURS))
    parser.add_argument("--cert", type=Path, help="certificate chain (PEM)")
    parser.add_argument("--key", type=Path, help="private key (PEM)")
    parser.add_argument(
        "--client-ca", type=Path, help="CA of client certificates (PEM); default: none asked for"
    )
    parser.add_argument("--delay", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--interval", type=float, default=0.2, metavar="SECONDS")
    parser.add_argument("--redirect-to", default="https://127.0.0.1:1/readyz", metavar="URL")
    parser.add_argument("--slices", type=Path, help="EndpointSlices of namespace default, a JSON list")
    parser.add_argument("--forward", action="append", metavar="ADDR:PORT", help="be a TcpForwarder instead")
    options = parser.parse_args(arguments)

    try:
        server = _server(parser, options)
        server.start()
    except (OSError, ValueError) as error:
        print(
            f"{parser.prog}: {error.strerror or error if isinstance(error, OSError) else error}",
            file=sys.stderr,
        )
        return 1
    print(f"listening on {server.endpoint}", flush=True)
    # Blocked in every thread and taken here: the counters are printed after the last connection has been cut.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.close()
    if isinstance(server, ControlPlane):
        print(json.dumps(server.counters, default=lambda value: value.__dict__), flush=True)
    return 0


def _server(parser: argparse.ArgumentParser, options: argparse.Namespace) -> TcpServer:
    address, port = _split(options.listen)
    if options.forward:
        return TcpForwarder(address, port, [_split(target) for target in options.forward])
    if options.cert is None or options.key is None:
        parser.error("--cert and --key are needed")
    return ControlPlane(
        None,
        address,
        port,
        options.behaviour,
        certificate=Certificate(options.cert, options.key),
        client_ca=options.client_ca.read_text() if options.client_ca else None,
        delay=options.delay,
        interval=options.interval,
        redirect_to=options.redirect_to,
        slices=json.loads(options.slices.read_text()) if options.slices else None,
    )


def _split(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not port.isdigit():
        raise ValueError(f"{text!r}: expected ADDR:PORT or [ADDR6]:PORT")
    return address.strip("[]"), int(port)


if __name__ == "__main__":
    sys.exit(main())
