"""A stranger's text, fit for a log and a terminal. Pure."""

from __future__ import annotations


def one_line(text: str, longest: int) -> str:
    """At most `longest` characters of it in one line, without what does not print: it can neither begin another line
    nor move the cursor.
    """
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:longest]
