"""The managed block in the hosts file.

`text` says what the bytes should be (pure; `lines` and `adopt` belong to it), `file` gets them onto the disk (with
`journal` where the file cannot be replaced).
"""

from __future__ import annotations

from apiha.hosts.adopt import ForeignLine
from apiha.hosts.errors import BlockChanged
from apiha.hosts.file import Change, HostsFile
from apiha.hosts.lines import HostsLine
from apiha.hosts.text import BEGIN, END, Block, BlockState, current, find_foreign, parse, remove, splice

__all__ = [
    "BEGIN",
    "END",
    "Block",
    "BlockChanged",
    "BlockState",
    "Change",
    "ForeignLine",
    "HostsFile",
    "HostsLine",
    "current",
    "find_foreign",
    "parse",
    "remove",
    "splice",
]
