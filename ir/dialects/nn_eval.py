"""Computes single ONNX nodes: the meaning of the `nn` operators.

The reference implementation of the `onnx` package (NumPy) is preferred. onnxruntime steps in where it has no
implementation, fails, or returns what the operator's result types rule out.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from smec.ir.dialects.nn_proto import OPAQUE, element_of_dtype, type_proto
from smec.ir.onnx_session import Session, SessionError
from smec.ir.types import ELEMENT_DTYPES, TensorType

if TYPE_CHECKING:
    import onnx

    from smec.ir.dialects.nn import NNOp

#: Operators whose NumPy implementation in `onnx` departs from the standard in cases that real models contain, or takes
#: seconds an image: their meaning is onnxruntime's. Resize: cubic, and half-pixel rounding of `sizes`. Pools:
#: `ceil_mode`, and loops over pixels. LSTM and its kin: layouts and activations.
_BY_ONNXRUNTIME = frozenset({"AveragePool", "GRU", "LSTM", "LpPool", "MaxPool", "RNN", "Resize", "Upsample"})

#: What `_fit` returns for a result that its type rules out.
_UNFIT = object()


class NodeEvaluator:
    """One operator, made ready for many images.

    Args:
        op: the operator.
        inputs: arrays with an image axis: they give the element types and shapes of the operands.
    """

    def __init__(self, op: NNOp, inputs: list[np.ndarray]) -> None:
        from smec.ir.dialects.nn import to_node

        self.op = op
        self.types = [TensorType(x.shape[1:], element_of_dtype(x.dtype)) for x in inputs]
        self.input_names = [f"i{k}" for k in range(len(inputs))]
        self.output_names = [f"o{k}" for k in range(len(op.results))]
        self.node = to_node(op, self.input_names, self.output_names)
        self.reference = self._reference()
        self.session: Session | None = None

    def run(self, arrays: list[Any]) -> list[Any]:
        """The results for one image's arrays (lists and None, where ONNX has sequences and optionals).

        Raises:
            SmecError: neither implementation computes the operator.
        """
        feed = dict(zip(self.input_names, arrays, strict=True))
        if self.reference is not None:
            results = self._try_reference(feed)
            if results is not None:
                return results
            self.reference = None
        return self._run_session(feed)

    def _reference(self) -> Any:
        op = self.op
        if op.domain or op.op_type in _BY_ONNXRUNTIME:
            return None
        import onnx
        from onnx.reference import ReferenceEvaluator

        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in op.opsets().items()]
        function = onnx.helper.make_function("smec", "node", self.input_names, self.output_names, [self.node], opsets)
        try:
            return ReferenceEvaluator(function)
        except Exception:  # noqa: BLE001  # whatever keeps it from knowing the operator: onnxruntime is next
            return None

    def _try_reference(self, feed: dict[str, Any]) -> list[Any] | None:
        with np.errstate(all="ignore"):
            try:
                # Some operators write to their inputs' views or insist on contiguous arrays.
                results = self.reference.run(None, {name: copy.copy(a) for name, a in feed.items()}, attributes={})
            except Exception:  # noqa: BLE001  # its operators raise anything: onnxruntime is next
                return None
        fitted = [_fit(r, o.type) for r, o in zip(results, self.op.results, strict=True)]
        return None if any(r is _UNFIT for r in fitted) else fitted

    def _run_session(self, feed: dict[str, Any]) -> list[Any]:
        try:
            if self.session is None:
                self.session = Session(self._model(), level="none")
            return self.session.run(feed, self.output_names)
        except SessionError as error:
            raise self.op.error(f"onnxruntime cannot compute the operator: {error}") from error

    def _model(self) -> onnx.ModelProto:
        import onnx

        inputs = [
            onnx.helper.make_value_info(name, type_proto(type))
            for name, type in zip(self.input_names, self.types, strict=True)
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in self.output_names]
        graph = onnx.helper.make_graph([self.node], "node", inputs, outputs)
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self.op.opsets().items()]
        return onnx.helper.make_model(
            graph, opset_imports=opsets, ir_version=onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
        )


def _fit(array: Any, type: TensorType) -> Any:
    """`array` in the element type of `type`; `_UNFIT` if it is not of that type's shape."""
    if type.element == OPAQUE:
        return array
    if not isinstance(array, (np.ndarray, np.generic)):
        return _UNFIT
    array = np.asarray(array)
    if array.ndim != len(type.shape):
        return _UNFIT
    if any(want not in (-1, have) for want, have in zip(type.shape, array.shape, strict=True)):
        return _UNFIT
    wanted = ELEMENT_DTYPES.get(type.element) if isinstance(type.element, str) else None
    return array if wanted is None or array.dtype == wanted else array.astype(wanted)
