"""Runs a module by the NumPy meaning of its operations: the definition that everything else is tested against.

Every array carries a leading image axis B: a value of type tensor<1x16x8x8xf32> is an array of shape (B, 1, 16, 8, 8).
An operation without operands does not know B: it returns an axis of extent 1, which is stretched here (without a copy).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from smec.ir.core import Block, Operation, Value
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError
from smec.ir.types import ELEMENT_DTYPES, Quantized, TensorType

#: Called after each operation with its results; arrays are not to be written to.
Tap = Callable[[Operation, list[np.ndarray]], None]


def interpret(module: ModuleOp, inputs: dict[str, np.ndarray], tap: Tap | None = None) -> dict[str, np.ndarray]:
    """Run the module's graph.

    Args:
        module: the module.
        inputs: for each of the graph's input names an array (B, *shape) of the input type's dtype.
        tap: sees each operation of the graph and its results (not the operations inside host regions).

    Returns:
        For each of the graph's output names an array (B, *shape).

    Raises:
        SmecError: an input is missing, unknown or of the wrong shape or dtype; an operation fails.
    """
    graph = module.graph
    names = graph.input_names
    for name in inputs:
        if name not in names:
            raise graph.error(f"graph has no input '{name}'", expected=f"one of {', '.join(names)}")
    missing = [name for name in names if name not in inputs]
    if missing:
        raise graph.error(f"no array for input '{missing[0]}'")
    arrays = interpret_block(graph.block, [inputs[name] for name in names], tap)
    return dict(zip(graph.output_names, arrays, strict=True))


def interpret_block(block: Block, inputs: Sequence[np.ndarray], tap: Tap | None = None) -> list[np.ndarray]:
    """Run a block: `inputs` are its arguments' arrays, the result is what its terminator returns.

    An array is dropped as soon as its last use has run.

    Raises:
        SmecError: an array does not fit its value's type, or an operation fails.
    """
    owner = block.parent.parent if block.parent is not None else None
    if len(inputs) != len(block.args):
        location = owner.location if owner is not None else None
        raise SmecError("wrong number of inputs", location=location, expected=len(block.args), found=len(inputs))
    images = 1
    for array in inputs:
        images = max(images, array.shape[0] if array.ndim else 1)
    live: dict[Value, np.ndarray] = {}
    remaining: dict[Value, int] = {}
    for arg, array in zip(block.args, inputs, strict=True):
        _check(owner, f"input {arg.index}", arg.type, array, images)
        if arg.uses:
            live[arg], remaining[arg] = array, len(arg.uses)
    for op in block.ops:
        arrays = []
        for value in op.operands:
            if value not in live:
                raise op.error("operand is not computed before it is used")
            arrays.append(live[value])
        results = _run(op, arrays)
        if op.is_terminator:
            return results
        if len(results) != len(op.results):
            raise op.error("wrong number of results", expected=len(op.results), found=len(results))
        if not op.operands:
            results = [_stretch(array, images) for array in results]
        del arrays
        for value in op.operands:
            remaining[value] -= 1
            if not remaining[value]:
                del live[value]
        for index, (res, array) in enumerate(zip(op.results, results, strict=True)):
            _check(op, f"result {index}", res.type, array, images)
            if res.uses:
                live[res], remaining[res] = array, len(res.uses)
        if tap is not None:
            tap(op, results)
    raise SmecError("block has no terminator", location=owner.location if owner is not None else None)


def _run(op: Operation, arrays: list[np.ndarray]) -> list[np.ndarray]:
    try:
        return op.interpret(arrays)
    except SmecError:
        raise
    except Exception as error:
        # Operators take what users' models give them: a failure inside NumPy or a host kernel is shown, located.
        raise op.error(f"cannot be computed: {error}") from error


def _stretch(array: np.ndarray, images: int) -> np.ndarray:
    if array.ndim and array.shape[0] == 1 and images != 1:
        return np.broadcast_to(array, (images, *array.shape[1:]))
    return array


def _check(op: Operation | None, what: str, type: TensorType, array: np.ndarray, images: int) -> None:
    """Raise unless `array` is an array of `images` values of `type`."""
    shape = array.shape
    fits = len(shape) == len(type.shape) + 1 and shape[0] == images
    fits = fits and all(want in (-1, have) for want, have in zip(type.shape, shape[1:], strict=True))
    element = type.element
    wanted = element.dtype if isinstance(element, Quantized) else ELEMENT_DTYPES.get(element)
    if fits and (wanted is None or array.dtype == wanted):
        return
    location = op.location if op is not None else None
    name = f"'{op.name}': " if op is not None else ""
    expected = f"{images} images of {type}"
    raise SmecError(
        f"{name}{what} does not fit its type",
        location=location,
        expected=expected,
        found=f"{array.dtype} {list(shape)}",
    )
