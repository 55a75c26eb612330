"""Machines that really boot systemd: Debian in systemd-nspawn containers on hosts of `tests.support.netns`.

    with Network() as network:
        worker = network.add_host("worker", "10.0.0.20")
        with Machine("worker-1", worker) as machine:
            machine.write("/etc/systemd/system/x.service", ...)
            machine.boot()
            machine.wait_until(lambda: machine.show("x.service")["ActiveState"] == "active", "x runs")
            machine.reboot()        # same disk, fresh kernel: the VIP on `lo` is gone, as on a real node

The root filesystem is made once by debootstrap, from the mirror that this system's apt uses, and kept in
`tests.support.cache`; each machine gets a copy of its own, on the same kind of file system as any other
file, for inotify and rename behave a little differently on an overlay. The container is not registered
anywhere, so this works on systems without systemd as well. However a machine ends, nothing of it stays:
processes, mounts, files.
"""

from __future__ import annotations

from tests.support.machine.filesystem import missing, require_debian, requires_machine, root_filesystem
from tests.support.machine.journal import Entry
from tests.support.machine.machine import Machine

__all__ = ["Entry", "Machine", "missing", "require_debian", "requires_machine", "root_filesystem"]
