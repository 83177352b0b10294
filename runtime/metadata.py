"""The metadata document of a program: its schema, and the check that a document follows it.

The TypedDicts below are the schema; `check_metadata` interprets them. Keys beyond them are allowed and kept (a compile
may record more about a layer); keys that are named here must be present, unless `NotRequired`, and of the given type.
"""

from __future__ import annotations

import types
from typing import Any, NotRequired, TypedDict, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from smec.ir.errors import SmecError


class PortInfo(TypedDict):
    """A model input or output.

    agu: the address generator that visits its elements in row-major order.
    shape: the model's own shape for one image (a symbolic batch axis is 1). dtype: NumPy's name.
    batch: the axis of `shape` along which the engines' arrays stack images (0 for [N, 3, 32, 32]), or null: those
        arrays have a further, leading image axis.
    fixed_batch: the model fixes the extent of its leading axis, and `batch` is null: an "image" is a batch of that
        extent, and a user's array may hold several of them along that axis.
    """

    name: str
    agu: int
    shape: list[int]
    dtype: str
    batch: int | None
    fixed_batch: NotRequired[bool]


class LayerInfo(TypedDict):
    """A layer on crossbars.

    kind: "conv" or "gemm". node: the ONNX node. tensor: the float model's tensor that the layer's result stands for.
    K, M: inputs and outputs of its weight matrix. pixels: matrix-vector products an image.
    macs: multiply-accumulates an image. bits: N of a magnitude. planes: planes kept. squeeze: depth x.
    tile_first, tiles: its range in the tile tables.
    blocks: the planes of its tiles, one a plane (and sign) and tile; blocks_empty: dropped because all their cells are
    zero. crossbars: physical crossbars that hold its blocks; several blocks may share one, those of other layers too.
    squeeze_error: relative squared error of squeeze-out, sum (w - w')^2 / sum w^2.
    """

    name: str
    kind: str
    node: str
    tensor: str
    K: int
    M: int
    pixels: int
    macs: int
    bits: int
    planes: int
    sign: str
    pattern: str
    squeeze: int
    tile_first: int
    tiles: int
    blocks: int
    blocks_empty: int
    crossbars: int
    squeeze_error: float


class HostInfo(TypedDict):
    """A host region, section `host.<i>`.

    batchable: one call may take many images along axis 0. macs, flops: multiply-accumulates, and all floating-point
    operations, an image. ops: ONNX operators and their number.
    """

    name: str
    batchable: bool
    macs: int
    flops: int
    ops: dict[str, int]


class SourceInfo(TypedDict):
    """The compiled model: file name (without folders) and SHA-256 of its bytes."""

    file: str
    sha256: str


class Metadata(TypedDict):
    """The document.

    target: the full target dictionary (`smec.ir.isa_sections.Hardware` names what must be in it).
    act_bits: A. options: of the compile. macs_crossbar, macs_host: multiply-accumulates an image.
    crossbars: physical crossbars in use. blocks: planes of tiles that they hold (an entry of the `xbar_*` sections
    each). crossbars_dense_16, crossbars_dense_8: what 16 or 8 one-bit columns a weight take on the same crossbar size.
    """

    smec_version: str
    target: dict[str, Any]
    act_bits: int
    options: dict[str, Any]
    inputs: list[PortInfo]
    outputs: list[PortInfo]
    layers: list[LayerInfo]
    host: list[HostInfo]
    macs_crossbar: int
    macs_host: int
    crossbars: int
    blocks: int
    crossbars_dense_16: int
    crossbars_dense_8: int
    source: SourceInfo


def check_metadata(document: object, location: str | None = None) -> Metadata:
    """Return the document, now known to follow `Metadata`; SmecError that names the first key that does not."""
    _check(document, Metadata, "metadata", location)
    return document  # type: ignore[return-value]  # just checked


def _check(value: object, kind: Any, path: str, location: str | None) -> None:
    if kind is Any:
        return
    if is_typeddict(kind):
        _require(isinstance(value, dict), value, "an object", path, location)
        # `__required_keys__` does not see NotRequired behind postponed annotations.
        hints = get_type_hints(kind, include_extras=True)
        document = cast("dict[str, object]", value)
        for key, hint in hints.items():
            optional = get_origin(hint) is NotRequired
            if key in document:
                _check(document[key], get_args(hint)[0] if optional else hint, f"{path}.{key}", location)
            elif not optional:
                raise SmecError(
                    f"{path} lacks the key '{key}'", location=location, expected=_name(hint), found="nothing"
                )
        return
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if not any(_fits(value, arg) for arg in args):
            _require(False, value, _name(kind), path, location)
    elif origin is list:
        _require(isinstance(value, list), value, "a list", path, location)
        for i, item in enumerate(cast("list[object]", value)):
            _check(item, args[0], f"{path}[{i}]", location)
    elif origin is dict:
        _require(isinstance(value, dict), value, "an object", path, location)
        for key, item in cast("dict[str, object]", value).items():
            _check(item, args[1], f"{path}.{key}", location)
    else:
        _require(_fits(value, kind), value, _name(kind), path, location)


def _fits(value: object, kind: Any) -> bool:
    """A value of a plain type; a bool is not an int, an int is a float."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)


def _require(condition: bool, value: object, expected: str, path: str, location: str | None) -> None:
    if not condition:
        raise SmecError(f"{path} has the wrong type", location=location, expected=expected, found=repr(value)[:60])
