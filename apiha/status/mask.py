"""What a report for an issue must not tell: other lines of the hosts file, and whatever looks like a secret. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from functools import partial

from apiha.hosts.adopt import ADOPTED, original_of
from apiha.hosts.lines import Entry, gives, name_key, read_entry, show
from apiha.hosts.text import parse

# Names that are on every machine, and tell nobody anything.
_COMMON = frozenset(
    {
        b"localhost",
        b"localhost.localdomain",
        b"ip6-localhost",
        b"ip6-loopback",
        b"ip6-localnet",
        b"ip6-mcastprefix",
        b"ip6-allnodes",
        b"ip6-allrouters",
        b"broadcasthost",
        b"apiha",  # would blank the program's own name
    }
)
_WORD = re.compile(r"[\w.-]+")  # what a host name stands in
_SHORTEST = 3  # letters; a shorter name is in too many words
# apiha writes none of these; the journal quotes other programs, and a configuration may hold anything.
_SECRETS = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b"),  # a bootstrap token: kubeadm
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),  # a JSON Web Token, RFC 7519
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),  # user and password in a URL
)


def hosts_text(data: bytes, host: str) -> str:
    """The hosts file with apiha's block as it is; of other lines what kind they are, and whether they name `host`."""
    key = name_key(host)
    text = parse(data, host)
    parts: list[str] = []
    for outside, block in zip(text.outside, (*text.blocks, None), strict=True):
        lines = outside.data.split(b"\n")
        parts += [_line(line, key) for line in (lines if lines[-1] else lines[:-1])]
        if block is not None:
            own = [line for line in block.data.split(b"\n") if line]
            parts += [show(line) if _is_own(line, key) else _line(line, key) for line in own]
    return "".join(f"{part}\n" for part in parts)


def foreign_words(data: bytes, host: str) -> tuple[list[str], list[str]]:
    """The lines outside the block as messages quote them, longest first, and the names in them."""
    key = name_key(host)
    lines, names = set(), set()
    for line in _foreign(data, host):
        found = read_entry(line)
        if line.strip():
            lines.add(show(line))
        if found is not None:
            names |= {name for name in found[1] if name_key(name) not in {key, *_COMMON}}
    shown = {show(name) for name in names if len(name) >= _SHORTEST}
    return sorted(lines, key=len, reverse=True), sorted(shown, key=len, reverse=True)


def masked(text: str, lines: Sequence[str], names: Sequence[str]) -> str:
    """The text without these lines and names, and without what looks like a secret."""
    for pattern in _SECRETS:
        text = pattern.sub("(secret)", text)
    for line in lines:
        if len(line) >= 2 * _SHORTEST:
            text = text.replace(line, "(a line of the hosts file)")
    text = _WORD.sub(partial(_hidden, {name.lower() for name in names}), text)
    odd = [name for name in names if not _WORD.fullmatch(name)]  # not a host name, but resolvers take it
    if odd:
        either = "|".join(map(re.escape, odd))
        text = re.sub(rf"(?<![\w.-])(?:{either})(?![\w-])", "(name)", text, flags=re.IGNORECASE)
    return text


def _hidden(names: Set[str], found: re.Match[str]) -> str:
    """A word without the name that it is, or begins with: `worker-7.` at the end of a sentence.

    Looked up, since a hosts file may hold 100,000 names.
    """
    word, end = found[0], len(found[0])
    while end > 0:
        if word[:end].lower() in names:
            return f"(name){word[end:]}"
        end = word.rfind(".", 0, end)
    return word


def _foreign(data: bytes, host: str) -> Iterator[bytes]:
    text, key = parse(data, host), name_key(host)
    for outside in text.outside:
        for line in outside.data.split(b"\n"):
            yield line if (original := original_of(line)) is None else original
    for block in text.blocks:
        yield from (line for line in block.lines if not _is_own(line, key))


def _is_own(line: bytes, key: bytes) -> bool:
    """Whether a line of the block says nothing that apiha did not decide: a marker, or an address of the host alone."""
    if line.startswith((b"# BEGIN apiha", b"# END apiha")):
        return True
    found = read_entry(line)
    return found is not None and b"#" not in line and all(name_key(name) == key for name in found[1])


def _line(line: bytes, key: bytes) -> str:
    """What kind of line it is."""
    original = original_of(line)
    if original is not None:
        return f"{ADOPTED.decode()}{_line(original, key)}"
    found = read_entry(line)
    if found is not None:
        return _entry(found, key)
    if not line.strip():
        return ""
    return "# (comment)" if line.lstrip().startswith(b"#") else f"({len(line)} bytes that no resolver reads)"


def _entry(found: Entry, key: bytes) -> str:
    address, names = found
    named = gives(found, key)
    loopback = address.startswith(b"127.") or address == b"::1"
    kind = "(IPv6 address)" if b":" in address else "(IPv4 address)"
    told = [show(name) for name in names if name_key(name) in {key, *_COMMON}]
    hidden = len(names) - len(told)
    words = [*told, *([f"({hidden} name{'' if hidden == 1 else 's'})"] if hidden else [])]
    return f"{show(address) if named or loopback else kind}\t{' '.join(words)}"
