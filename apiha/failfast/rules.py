"""The nftables tables called `apiha` as text: a circuit breaker for each control plane. Pure: addresses in, text out.

The hook `output` lies behind the Service proxy's translation, so it sees the real control plane behind a VIP too. A
packet that must be acknowledged (SYN, FIN, or data) is a question; any packet from the control plane answers it. Per
control plane and family there are three states:

closed
    A question that its connection asks again after `PATIENCE` makes the control plane silent if it sent nothing at
    all to anybody within `PATIENCE`. So does the SYN of another connection that comes `SYN_PATIENCE` after a first
    one, if the control plane sent nothing to anybody since that one. The connection that asked is reset. Linux sends
    a SYN again after 1 s, and data after 0.2, 0.4, 0.8 and 1.7 s.
silent
    New connections are refused at once. An established connection is reset on evidence of its own: its first packet
    passes, and when it asks again after `SHORT_PATIENCE` (0.4 s, for Linux) it is reset. So no connection that works is
    ever cut: not for another one that a firewall forgot, and not for a program that lets its own packets vanish.
half-open
    Once in `KNOCK` a copy of a refused SYN is sent on: a knock, for which no client waits. Its answer, as any packet
    from the control plane, closes the breaker. Where packets cannot be copied (Pods; kernels without `dup`), one SYN in
    `TRIAL` passes instead.

A connection that is reset leaves the kernel's connection tracking at once (`forget`), not after 10 s: a new one by VIP
that gets its source port by chance would be translated as it was, to the machine that is lost.

Packets over `lo` are never looked at: these are the node's own API server, and the resets themselves. Where the Service
proxy sends a packet for the VIP to this node itself, `output` still names the device of the VIP's route, so the address
is asked as well (`fib`).

The breakers are in the table `inet apiha`. Only the families `ip` and `ip6` can copy a packet (nft_dup_ipv4.c), so two
small tables do that. The one tells the other by the packet's priority, which only root can set to such a value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from apiha.endpoint import Endpoint

NAME = "apiha"
TABLE = f"inet {NAME}"
KNOCK_TABLES = (f"ip {NAME}", f"ip6 {NAME}")
MARKER = "apiha fail-fast"  # how apiha knows its own tables; a table without it belongs to somebody else

Mode = Literal["node", "pods"]
Scope = Literal["node", "pods"]

# Times in nft's notation. The numbers are those of Linux' TCP: a SYN is sent again after 1 s (TCP_TIMEOUT_INIT), data
# after 0.2 s at the earliest (TCP_RTO_MIN), then twice as long each time; see RFC 6298 and include/net/tcp.h.
PATIENCE = "900ms"  # below the 1 s of a SYN, above three retransmissions of data on a short way
# Two connections vouch for it, so less than the 1 s of a single SYN will do; a round trip of 300 ms fits in.
SYN_PATIENCE = "400ms"
SHORT_PATIENCE = (
    "350ms"  # while silent: data is sent again after 0.2 and 0.4 s, so two lost in a row are needed
)
BUSY = "100ms"  # data to a control plane that sent something just now is not worth remembering (uploads)
ASKED = "20s"  # a question that is not asked again for so long was given up by its client
SILENT = "1h"  # from the first evidence; knocks and trials decide, this only bounds what is kept
KNOCK = "1s"
TRIAL = "4500ms"  # so that a control plane that is back is used within 5 s
TRIAL_AFTER_KNOCKS = "30s"  # in case a firewall of this machine drops the copies

# A tracked connection's timeouts in seconds. `close` is the state after a reset: 10 for the kernel; 0 is over at once.
# What is not named gets nft's defaults, which are the kernel's; these two are what kube-proxy sets the kernel's to.
_TRACKED = "established : 86400, close_wait : 3600, close : 0"

_ADDRESSES = 1024  # elements; the control planes of today and those that left
_CONNECTIONS = 16384  # elements of about 100 bytes, used only while a question is open
# The longest IP packet that may be a pure ACK: an IP header without options and a TCP header of 60 bytes. Data beyond
# needs no PSH to be recognised: retransmitted parts of an upload carry none.
_LONGEST_ACK = {4: 20 + 60, 6: 40 + 60}
_TO_COPY, _COPIED = (
    "6170:0001",
    "6170:0002",
)  # priorities (major 0x6170 is "ap"); programs without root have 0 to 6

COUNTERS = ("silences", "cut", "refused")  # per address: silences found, connections reset, SYNs refused


@dataclass(frozen=True)
class Features:
    """What the tables do beyond the breakers, where the machine can.

    `knock`: copy packets. `forget`: have connection tracking forget connections to control planes that were reset; this
    switches tracking on where nothing else does.
    """

    knock: bool = True
    forget: bool = True


ALL = Features()
# The best first.
VARIANTS = (ALL, Features(knock=False), Features(forget=False), Features(knock=False, forget=False))


def scopes(mode: Mode) -> tuple[Scope, ...]:
    """Whose connections are watched: the node's own, and with `pods` also those of its Pods, by separate breakers."""
    return ("node", "pods") if mode == "pods" else ("node",)


def load_script(endpoints: Iterable[Endpoint], mode: Mode, features: Features = ALL) -> str:
    """The script for `nft -f` that makes all tables, and replaces those that are there, in one transaction."""
    return remove_script() + _tables(endpoints, mode, layout(mode, features), features)


def refresh_script(endpoints: Iterable[Endpoint], *, knock: bool = True) -> str:
    """The script that replaces the control planes in tables of today's layout; all other state stays."""
    wanted = tuple(endpoints)
    sets = [(TABLE, f"control_planes{version}", _elements(wanted, version)) for version in (4, 6)]
    if knock:
        sets += [
            (table, "copies", _copies(wanted, version))
            for table, version in zip(KNOCK_TABLES, (4, 6), strict=True)
        ]
    lines = []
    for table, name, elements in sets:
        lines.append(f"flush {'map' if name == 'copies' else 'set'} {table} {name}")
        if elements:
            lines.append(f"add element {table} {name} {{ {elements} }}")
    return "\n".join(lines) + "\n"


def remove_script() -> str:
    """The script that removes all tables, whichever of them there are."""
    # Declared first, so that `delete` is valid where there is none.
    return "".join(f"table {table}\ndelete table {table}\n" for table in (TABLE, *KNOCK_TABLES))


def layout(mode: Mode, features: Features = ALL) -> str:
    """A short digest of the tables' text without control planes: equal where a refresh is enough."""
    return hashlib.sha256(_tables((), mode, "", features).encode()).hexdigest()[:12]


def features_of(mode: Mode, digest: str) -> Features | None:
    """The features of the tables with this layout; None if this version makes no such tables for this mode."""
    return next((features for features in VARIANTS if layout(mode, features) == digest), None)


def marker(mode: Mode, digest: str) -> str:
    """The comment by which apiha knows its tables, and how they were made."""
    return f"{MARKER}, mode {mode}, layout {digest}"


def _tables(endpoints: Iterable[Endpoint], mode: Mode, digest: str, features: Features) -> str:
    wanted = tuple(endpoints)
    about = f'\tchain about {{\n\t\treturn comment "{marker(mode, digest)}"\n\t}}\n'
    parts = [about]
    for version in (4, 6):
        elements = _elements(wanted, version)
        parts.append(
            f"\tset control_planes{version} {{\n\t\ttype {_address_type(version)}\n"
            + (f"\t\telements = {{ {elements} }}\n" if elements else "")
            + "\t}\n"
        )
    if features.forget:
        parts += [
            f"\tct timeout closed{version} {{\n\t\tprotocol tcp;\n\t\tl3proto {_ip(version)};\n"
            f"\t\tpolicy = {{ {_TRACKED} }};\n\t}}\n"
            for version in (4, 6)
        ]
    for scope in scopes(mode):
        able = features if scope == "node" else replace(features, knock=False)
        parts += [_breaker(scope, version, able) for version in (4, 6)]
    parts.append(
        _hook("output", 10, [f"meta priority {_COPIED} return", "oif lo return", *_questions("node")])
    )
    # Before filter (0): the answer to a copy belongs to no connection, and firewalls drop such packets.
    parts.append(_hook("input", -10, ["iif lo return", *_answers("node")]))
    if mode == "pods":
        parts.append(_hook("forward", 10, [*_questions("pods"), *_answers("pods")]))
    text = f"table {TABLE} {{\n{''.join(parts)}}}\n"
    if features.knock:
        for table, version in zip(KNOCK_TABLES, (4, 6), strict=True):
            text += f"table {table} {{\n{about}{_copier(wanted, version)}}}\n"
    return text


def _of_version(endpoints: Iterable[Endpoint], version: int) -> list[Endpoint]:
    return sorted({endpoint for endpoint in endpoints if endpoint.is_ipv6 == (version == 6)})


def _elements(endpoints: Iterable[Endpoint], version: int) -> str:
    return ", ".join(f"{e.address} . {e.port}" for e in _of_version(endpoints, version))


def _copies(endpoints: Iterable[Endpoint], version: int) -> str:
    """Where the copy of a packet goes: to its own destination. nft takes this from a map only."""
    addresses = dict.fromkeys(endpoint.address for endpoint in _of_version(endpoints, version))
    return ", ".join(f"{address} : {address}" for address in addresses)


def _address_type(version: int) -> str:
    return f"{'ipv6' if version == 6 else 'ipv4'}_addr . inet_service"


def _ip(version: int) -> str:
    return "ip6" if version == 6 else "ip"


def _hook(hook: str, priority: int, rules: list[str]) -> str:
    lines = [f"type filter hook {hook} priority {priority}; policy accept;", *rules]
    return f"\tchain {hook} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"


def _questions(scope: Scope) -> list[str]:
    elsewhere = "fib daddr type != local " if scope == "node" else ""
    return [
        f"{_ip(v)} daddr . tcp dport @control_planes{v} {elsewhere}goto {scope}{v}_question" for v in (4, 6)
    ]


def _answers(scope: Scope) -> list[str]:
    return [f"{_ip(v)} saddr . tcp sport @control_planes{v} goto {scope}{v}_answer" for v in (4, 6)]


def _copier(endpoints: Iterable[Endpoint], version: int) -> str:
    """Sends a copy of each packet that `inet apiha` handed on for it, and refuses the packet itself.

    The copy passes the hook `output` once more, from its beginning, before the next rule is looked at.
    """
    address = f"{'ipv6' if version == 6 else 'ipv4'}_addr"
    elements = _copies(endpoints, version)
    body = f"\tmap copies {{\n\t\ttype {address} : {address}\n"
    body += f"\t\telements = {{ {elements} }}\n" if elements else ""
    rules = [
        f"meta priority {_COPIED} accept",
        f"meta priority != {_TO_COPY} return",
        f"meta priority set {_COPIED} dup to {_ip(version)} daddr map @copies",
        "meta l4proto tcp reject with tcp reset",
    ]
    return f"{body}\t}}\n{_hook('output', 11, rules)}"


def _breaker(scope: Scope, version: int, features: Features) -> str:
    """Sets and chains of the breakers of one scope and family; their names begin with `node4_` and so on."""
    ip, address_type = _ip(version), _address_type(version)
    values = {
        "p": f"{scope}{version}",
        "to": f"{ip} daddr . tcp dport",
        "from": f"{ip} saddr . tcp sport",
        "question": f"{ip} saddr . tcp sport . {ip} daddr . tcp dport",
        "answer": f"{ip} daddr . tcp dport . {ip} saddr . tcp sport",
        "longest_ack": _LONGEST_ACK[version],
        "short_patience": SHORT_PATIENCE,
        "to_copy": _TO_COPY,
    }
    limits = {
        "heard": PATIENCE,  # the control plane sent something
        "busy": BUSY,  # the same, just now
        "owed": ASKED,  # somebody's SYN has no answer yet, and nothing came since
        "owed_young": SYN_PATIENCE,
        "silent": SILENT,
        "trial": TRIAL_AFTER_KNOCKS if features.knock else TRIAL,
        **({"knock": KNOCK} if features.knock else {}),
    }
    kept = [
        (name, address_type, f"flags dynamic,timeout; timeout {t}", _ADDRESSES) for name, t in limits.items()
    ]
    kept += [
        (name, f"{address_type} . {address_type}", f"flags dynamic,timeout; timeout {limit}", _CONNECTIONS)
        for name, limit in (("asked", ASKED), ("young", PATIENCE))
    ]
    kept += [(name, address_type, "flags dynamic", _ADDRESSES) for name in COUNTERS]
    sets = "".join(
        f"\tset {values['p']}_{name} {{ type {kind}; {flags}; size {size}; }}\n"
        for name, kind, flags, size in kept
    )
    chains = _BREAKER % {
        **values,
        "knock": _KNOCK % values if features.knock else "",
        "forget": _FORGET % version if features.forget else "",
    }
    return sets + chains.replace("\n\n", "\n")


# `add` and `update` of a full set end their rule: what cannot be remembered is never held against anybody. That is why
# `young` comes before `asked`, and `owed_young` before `owed`.
_BREAKER = """\
	chain %(p)s_question {
		tcp flags & rst == rst return comment "nobody answers a reset"
%(forget)s
		%(to)s @%(p)s_silent goto %(p)s_while_silent
		tcp flags & (fin | syn | psh) == 0 meta length <= %(longest_ack)d return comment "a pure ACK"
		%(question)s @%(p)s_asked goto %(p)s_asked_again
		tcp flags & syn == syn %(to)s @%(p)s_owed %(to)s != @%(p)s_owed_young goto %(p)s_open
		tcp flags & syn == syn add @%(p)s_owed_young { %(to)s } add @%(p)s_owed { %(to)s }
		tcp flags & syn == 0 %(to)s @%(p)s_busy return
		add @%(p)s_young { %(question)s } add @%(p)s_asked { %(question)s }
	}
	chain %(p)s_asked_again {
		%(question)s @%(p)s_young return
		%(to)s @%(p)s_heard return comment "alive: this connection lost a packet"
		goto %(p)s_open
	}
	chain %(p)s_open {
		%(to)s != @%(p)s_silent update @%(p)s_silences { %(to)s counter }
		add @%(p)s_silent { %(to)s }
		add @%(p)s_trial { %(to)s }
		delete @%(p)s_asked { %(question)s }
		goto %(p)s_end
	}
	chain %(p)s_while_silent {
		%(question)s @%(p)s_asked goto %(p)s_asked_again
		tcp flags & syn == syn %(to)s @%(p)s_trial goto %(p)s_end
		tcp flags & syn == syn add @%(p)s_trial { %(to)s } add @%(p)s_young { %(question)s } \
add @%(p)s_asked { %(question)s } return comment "half-open: this one may try"
		add @%(p)s_young { %(question)s timeout %(short_patience)s } add @%(p)s_asked { %(question)s }
	}
	chain %(p)s_end {
		tcp flags & syn == syn update @%(p)s_refused { %(to)s counter }
		tcp flags & syn == 0 update @%(p)s_cut { %(to)s counter }
%(knock)s
		meta l4proto tcp reject with tcp reset
	}
	chain %(p)s_answer {
		update @%(p)s_heard { %(from)s }
		update @%(p)s_busy { %(from)s }
		delete @%(p)s_asked { %(answer)s }
		delete @%(p)s_young { %(answer)s }
		delete @%(p)s_owed { %(from)s }
		delete @%(p)s_owed_young { %(from)s }
		delete @%(p)s_silent { %(from)s }
		delete @%(p)s_trial { %(from)s }
	}
"""
_KNOCK = """\
		tcp flags & syn == syn %(to)s != @%(p)s_knock add @%(p)s_knock { %(to)s } \
meta priority set %(to_copy)s return comment "half-open: a copy tries" """.rstrip()
# The kernel takes this of a connection's first packet only, later it is ignored.
_FORGET = """\
		tcp flags & syn == syn ct timeout set "closed%d" """.rstrip()
