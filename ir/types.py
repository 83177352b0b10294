"""Values of types and attributes: locations, arrays, quantized elements, tensor types."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from smec.ir.errors import SmecError

#: Element types of tensors that are not quantized, and the NumPy dtype of each.
ELEMENT_DTYPES: dict[str, Any] = {
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
    "i1": np.bool_,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "ui8": np.uint8,
    "ui16": np.uint16,
    "ui32": np.uint32,
    "ui64": np.uint64,
}


@dataclass(frozen=True, slots=True)
class Location:
    """Where an operation comes from: the model file and the node in it (or the line of an IR text)."""

    file: str
    node: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: node '{self.node}'" if self.node else place


class Handle:
    """A reference to an array that the IR text never spells out.

    Two handles are equal when their arrays have the same dtype, shape and bytes; the digest (SHA-256 over dtype, shape
    and bytes) is computed on first need only, since most intermediate arrays are never compared or written.
    """

    def __init__(self, array: np.ndarray, digest: str | None = None) -> None:
        array = np.asarray(array)
        if array.dtype.byteorder == ">":  # the digest and the side file are of little-endian bytes
            array = array.astype(array.dtype.newbyteorder("<"))
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        view = array.view()
        view.flags.writeable = False
        self.array: np.ndarray = view
        if digest is not None:
            self.__dict__["digest"] = digest

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of dtype, shape and contents."""
        sha = hashlib.sha256(f"{self.array.dtype.str}{self.array.shape}".encode())
        sha.update(self.array.reshape(-1).view(np.uint8).data if self.array.size else b"")
        return sha.hexdigest()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Handle):
            return NotImplemented
        if self.array is other.array:
            return True
        if self.shape != other.shape or self.dtype != other.dtype:
            return False
        return self.digest == other.digest

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype))

    def __repr__(self) -> str:
        return f"Handle({self.dtype}{list(self.shape)})"


@dataclass(frozen=True, slots=True)
class Quantized:
    """Element type of unsigned `bits`-bit integers q that stand for x = scale * (q - zero_point).

    `scale` is a Python float whose value is exactly a float32 (it is rounded here); 1 <= bits <= 16.
    """

    bits: int
    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", float(np.float32(self.scale)))

    @property
    def qmax(self) -> int:
        return (1 << self.bits) - 1

    @property
    def dtype(self) -> Any:
        """NumPy dtype that holds the integers: uint8 up to 8 bits, else uint16."""
        return np.uint8 if self.bits <= 8 else np.uint16

    def __str__(self) -> str:
        return f"!quant.u<{self.bits}, {self.scale!r}, {self.zero_point}>"


@dataclass(frozen=True, slots=True)
class TensorType:
    """A ranked tensor. `shape` uses -1 for an extent that is not known at compile time."""

    shape: tuple[int, ...]
    element: str | Quantized = "f32"

    @property
    def size(self) -> int:
        """Number of elements (an image's worth: the image axis is not part of the type)."""
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def is_static(self) -> bool:
        return all(d >= 0 for d in self.shape)

    @property
    def quantized(self) -> Quantized:
        """The quantized element type.

        Raises:
            SmecError: the tensor is not quantized.
        """
        if not isinstance(self.element, Quantized):
            raise SmecError("tensor is not quantized", expected="a quantized element type", found=self.element)
        return self.element

    @property
    def dtype(self) -> Any:
        """NumPy dtype of an array of this type."""
        if isinstance(self.element, Quantized):
            return self.element.dtype
        try:
            return ELEMENT_DTYPES[self.element]
        except KeyError:
            raise SmecError("element type has no NumPy form", found=self.element) from None

    def __str__(self) -> str:
        dims = "".join(f"{'?' if d < 0 else d}x" for d in self.shape)
        return f"tensor<{dims}{self.element}>"
