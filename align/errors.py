"""The one error a user sees: what is wrong, where, what is allowed and what to do about it."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or usage. The command line prints it as one line and exits with code 2.

    Args:
        what: What is wrong, with the offending value.
        where: File and line, or configuration key.
        allowed: What would have been accepted.
        remedy: What to do next.
    """

    def __init__(self, what: str, *, where: str = "", allowed: str = "", remedy: str = "") -> None:
        self.what, self.where, self.allowed, self.remedy = what, where, allowed, remedy
        super().__init__(self._line())

    def _line(self) -> str:
        """Join the parts to a single line without line breaks."""
        line = f"{self.where}: {self.what}" if self.where else self.what
        if self.allowed:
            line += f"; allowed: {self.allowed}"
        if self.remedy:
            line += f"; {self.remedy}"
        return " ".join(line.split())
