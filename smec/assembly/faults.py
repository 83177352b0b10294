"""An error at an offset of a text, on its way to whoever knows the text."""

from __future__ import annotations

from typing import Any

from smec.ir.errors import SmecError, SourceSpan


class FaultError(Exception):
    """A fault at `length` characters from offset `start`; `details` are those of a SmecError."""

    def __init__(self, message: str, start: int, length: int = 1, **details: Any) -> None:
        super().__init__(message)
        self.message, self.start, self.length, self.details = message, start, length, details

    def shifted(self, by: int) -> FaultError:
        """The same fault where its text is a part that begins at offset `by`."""
        return FaultError(self.message, self.start + by, self.length, **self.details)

    def located(self, text: str, file: str) -> SmecError:
        """The error for users."""
        return SmecError(self.message, location=SourceSpan.at(text, self.start, file, self.length), **self.details)
