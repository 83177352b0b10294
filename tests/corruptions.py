"""Damaged texts for the tests of parsers: hypothesis draws the damage, and shrinks it where a test fails."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

from smec.ir.errors import SmecError, SourceSpan

_MARKS = '"%^(){}[]<>,:;=#!-+*.0x9é\\\n\x00/@'
_word = re.compile(r"\w+|[^\w\s]")


@st.composite
def corrupted(draw: st.DrawFn, text: str) -> str:
    """`text` after one to three edits: characters or words deleted, inserted, replaced, doubled, swapped; a cut."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(0, len(text) - 1)))
        end = min(len(text), start + draw(st.sampled_from([1, 1, 2, 5, 40])))
        kind = draw(st.integers(0, 7))
        if kind == 0:
            text = text[:start] + text[end:]
        elif kind == 1:
            text = text[:start] + draw(st.sampled_from(_MARKS)) + text[start:]
        elif kind == 2:
            text = text[:start] + draw(st.characters(codec="utf-8")) + text[start + 1 :]
        elif kind == 3:
            text = text[:end] + text[start:end] + text[end:]
        elif kind == 4:
            text = text[:start] + text[end:] + text[start:end]
        elif kind == 5 and draw(st.booleans()):
            text = text[:start]
        else:
            text = _other_word(draw, text, start)
    return text


def _other_word(draw: st.DrawFn, text: str, start: int) -> str:
    """One word or number becomes another one of the text, or a number out of range."""
    words = list(_word.finditer(text))
    if not words:
        return text
    victim = next((w for w in words if w.start() >= start), words[-1])
    others = [draw(st.sampled_from(words))[0], "0", "-1", "4294967296", "1e999", "999999999999999999"]
    return text[: victim.start()] + draw(st.sampled_from(others)) + text[victim.end() :]


def assert_located(error: SmecError, text: str) -> None:
    """Fail unless an error has a place in `text`, and shows its line."""
    span: Any = error.location
    assert isinstance(span, SourceSpan), error
    lines = text.split("\n")
    assert 1 <= span.line <= len(lines)
    assert 1 <= span.column <= len(lines[span.line - 1]) + 1
    assert "Traceback" not in str(error)
