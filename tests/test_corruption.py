"""Damaged IR text and pipeline text end in a located message or in a valid result (assembly: `test_assembly`).

`--hypothesis-profile=thorough` draws ten thousand of each.
"""

from __future__ import annotations

from corruptions import assert_located, corrupted
from hypothesis import given, settings
from hypothesis import strategies as st

import shared
from smec.ir.errors import SmecError, SourceSpan
from smec.ir.parser import parse_module
from smec.ir.types import Location
from smec.ir.verifier import verify
from smec.passes.legality import check_legal
from smec.passes.pipeline import parse_pipeline

GOLDEN = [
    text.partition("// -----")[2] for path in sorted((shared.ROOT / "tests" / "golden").glob("*.mlir"))
    for text in [path.read_text(encoding="utf-8")]
]  # fmt: skip

PIPELINE = (
    "partition,calibrate{method=min-max percentile=99.5},quantize-activations,"
    'quantize-admm{pattern="window" bits=8 squeeze=4 scale=tensor sign=twos-complement},'
    "tile,squeeze-out{depth=4 shift=fit},compact,slice-bits,group-rows{rows=9},assign-cores{share=false},emit"
)


@settings(max_examples=max(300, settings.default.max_examples))
@given(st.sampled_from(GOLDEN).flatmap(corrupted))
def test_corrupted_modules_are_diagnosed(text: str) -> None:
    try:
        module = parse_module(text, "f.mlir")
        verify(module)
        check_legal(module)
    except SmecError as error:
        if isinstance(error.location, SourceSpan):
            assert_located(error, text)
        else:
            # The text is well formed, the module is not: the operation's own location says where.
            assert isinstance(error.location, Location), error


@settings(max_examples=max(300, settings.default.max_examples))
@given(corrupted(PIPELINE))
def test_corrupted_pipelines_are_diagnosed(text: str) -> None:
    try:
        pipeline = parse_pipeline(text)
    except SmecError as error:
        assert_located(error, text)
    else:
        assert parse_pipeline(pipeline.text()) == pipeline
