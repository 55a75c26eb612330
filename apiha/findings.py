"""What a check found: one shape for every command that checks something, with its link into the documentation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from apiha import HOMEPAGE
from apiha.errors import ExitCode


class Severity(str, Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # it works, but somebody should look
    ERROR = "error"
    UNKNOWN = "unknown"  # the check could not be made from here; nothing speaks against


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    `code` is stable for programs, `message` says in one line what and where, `advice` what to do (empty if there is
    nothing to do), `anchor` is where the documentation explains it (`page.md#heading`, empty if nowhere), `exit_code`
    what it means for the process.
    """

    severity: Severity
    code: str
    message: str
    advice: str = ""
    anchor: str = ""
    exit_code: ExitCode = ExitCode.OK

    @property
    def link(self) -> str:
        """The address of the explanation, or an empty text."""
        return docs_link(self.anchor) if self.anchor else ""


def docs_link(anchor: str) -> str:
    """The address of `page.md#heading` in the documentation."""
    return f"{HOMEPAGE}/blob/main/docs/{anchor}"


def exit_code(findings: Iterable[Finding]) -> ExitCode:
    """OK if no finding is an error; the errors' own code if all have the same; else PROBLEMS."""
    codes = {finding.exit_code for finding in findings if finding.severity is Severity.ERROR}
    return ExitCode.PROBLEMS if len(codes) > 1 else next(iter(codes), ExitCode.OK)
