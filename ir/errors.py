"""The one error type that users see.

A `SmecError` is a located message: where, what, what was expected, what was found. The command line prints it and
exits with status 1; nothing else may reach a user for bad input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smec.ir.types import Location


@dataclass(frozen=True)
class SourceSpan:
    """A place in a text: file name, 1-based line and column, and the line itself for the caret."""

    file: str
    line: int
    column: int
    text: str = ""
    length: int = 1

    @classmethod
    def at(cls, text: str, start: int, file: str, length: int = 1) -> SourceSpan:
        """The place of the `length` characters from offset `start` of `text`; what reaches past the line is cut off."""
        start = max(0, min(start, len(text)))
        begin = text.rfind("\n", 0, start) + 1
        end = text.find("\n", start)
        # One column a character, so that the caret stands under what it points at.
        line = "".join(c if c.isprintable() else " " for c in text[begin : end if end >= 0 else len(text)])
        length = max(1, min(length, len(line) - start + begin))
        return cls(file, text.count("\n", 0, start) + 1, start - begin + 1, line, length)

    def excerpt(self, width: int = 120) -> tuple[str, str]:
        """The line and, below it, the carets; of a long line only the part around them."""
        text, left = self.text.rstrip("\n"), 0
        if len(text) > width:
            left = max(0, min(self.column - 1 - width // 3, len(text) - width))
            text = text[left : left + width]
        carets = "^" * max(1, min(self.length, left + width - self.column + 1))
        return text, " " * (self.column - 1 - left) + carets

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class SmecError(Exception):
    """A diagnosed error in a user's input.

    Args:
        message: one sentence, lower case, without a final full stop.
        location: where it is: an IR `Location` (model file and node), a `SourceSpan` in a text, or a file name.
        expected, found: what the checker wanted and what it saw instead.
        hint: what the user can do about it.

    Attributes:
        operation: the operation concerned, where `Operation.error` made the error.
        source: where that operation stands in an IR text, if it was read from one; shown below the message.
    """

    operation: Any = None
    source: SourceSpan | None = None

    def __init__(
        self,
        message: str,
        *,
        location: Location | SourceSpan | str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.location = location
        self.expected = expected
        self.found = found
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.location}: {self.message}" if self.location is not None else self.message
        if self.expected is not None or self.found is not None:
            parts = []
            if self.expected is not None:
                parts.append(f"expected {self.expected}")
            if self.found is not None:
                parts.append(f"found {self.found}")
            head += f" ({', '.join(parts)})"
        lines = [head]
        for place in (self.location, self.source):
            if place is self.source and self.source is not None:
                lines.append(f"  at {self.source}")
            if isinstance(place, SourceSpan) and place.text:
                lines.extend("  " + part for part in place.excerpt())
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)
