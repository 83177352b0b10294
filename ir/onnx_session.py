"""onnxruntime sessions on models in memory, with one exception type and weights passed by reference.

A *light* model is a ModelProto whose large initializers are marked as external data, while their arrays are in a
dictionary beside it: it is serialized, changed and loaded without copying the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import onnx

#: Initializers of at least this many bytes leave a light model.
LIGHT_LIMIT = 1024

#: File name that a light model's initializers carry; no file of that name exists or is read.
_NOWHERE = "in-memory-weights"

Level = Literal["none", "basic", "all"]

#: onnxruntime joins MatMul and Add to Gemm by reshaping to two dimensions, which fixes the batch extent in the shapes.
_DISABLED = ["MatMulAddFusion"]


class SessionError(Exception):
    """onnxruntime refused a model or failed to run it; the text is its message without the codes in front."""


#: What onnxruntime puts in front of its messages: a code, the place in its own source, the signature of its function.
_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"|\S*onnxruntime_src/\S+:\d+ (?:[^()]*?\((?:[^()]|\([^()]*\))*\)(?: const)?(?: \[with [^]]*\])?)? ?"
)


def session_error(error: Exception) -> SessionError:
    """Any exception out of onnxruntime (they have no common base) as a `SessionError`."""
    return SessionError(re.sub(r"\s+", " ", _NOISE.sub("", str(error))).strip())


def mark_external(tensor: onnx.TensorProto) -> None:
    """Make `tensor` one of a light model: drop its data, keep name, type and extents."""
    import onnx

    light = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    light.data_location = onnx.TensorProto.EXTERNAL
    light.external_data.add(key="location", value=_NOWHERE)
    tensor.CopyFrom(light)


def session_options(threads: int = 0) -> Any:
    """Options of a quiet session, `onnxruntime.SessionOptions`.

    Args:
        threads: of one operator; 0: as many as there are cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # threads that spin after their work would take processors from ours, and from other processes
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def exact_session(model: bytes, options: Any, disabled: Sequence[str] = ()) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU whose integer operators are exact on every processor.

    The uint8 x int8 kernels for processors without VNNI add pairs of products in saturating 16-bit arithmetic. Here
    onnxruntime makes such operators uint8 x uint8 first. Its own way of doing that where scales are those of an axis
    leaves a model that it then refuses; the other transformers reach the same operators.

    Args:
        model: serialized.
        options: of `session_options`.
        disabled: further optimizers to leave out.

    Raises:
        Exception: whatever onnxruntime raises: its exceptions have no common base.
    """
    import onnxruntime

    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["QDQS8ToU8Transformer", *disabled],
        enable_fallback=0,
    )


class Session:
    """An onnxruntime session on the CPU.

    Args:
        model: a model, light if `weights` are given, or a serialized one.
        weights: arrays of a light model's initializers; kept alive as long as the session.
        threads: of one operator.
        level: onnxruntime's graph optimizations: "basic" keeps to ONNX's own operators.
        save_to: file to write the optimized model to, with large initializers in `<name>.data` beside it.

    Raises:
        SessionError: onnxruntime refuses the model.
    """

    def __init__(
        self,
        model: onnx.ModelProto | bytes,
        weights: Mapping[str, np.ndarray] | None = None,
        *,
        threads: int = 1,
        level: Level = "all",
        save_to: Path | None = None,
    ) -> None:
        import onnxruntime

        options = session_options(threads)
        options.inter_op_num_threads = 1
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = {
            "none": levels.ORT_DISABLE_ALL,
            "basic": levels.ORT_ENABLE_BASIC,
            "all": levels.ORT_ENABLE_ALL,
        }[level]
        if save_to is not None:
            options.optimized_model_filepath = str(save_to)
            entries = {
                "session.optimized_model_external_initializers_file_name": save_to.name + ".data",
                "session.optimized_model_external_initializers_min_size_in_bytes": str(LIGHT_LIMIT),
                # The session is only there to write the file: packed copies of the weights would double its memory.
                "session.disable_prepacking": "1",
            }
            for key, value in entries.items():
                options.add_session_config_entry(key, value)
        data = model if isinstance(model, bytes) else model.SerializeToString()
        try:
            self._weights = {name: onnxruntime.OrtValue.ortvalue_from_numpy(a) for name, a in (weights or {}).items()}
            if self._weights:
                options.add_external_initializers(list(self._weights), list(self._weights.values()))
            self._session = exact_session(data, options, _DISABLED if level == "basic" else ())
        except Exception as error:
            raise session_error(error) from error
        self.input_names: list[str] = [i.name for i in self._session.get_inputs()]
        self.output_names: list[str] = [o.name for o in self._session.get_outputs()]

    def run(self, feed: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> list[Any]:
        """The named outputs (default all).

        Raises:
            SessionError: an operator fails.
        """
        try:
            # A scalar taken out of an array is no array any more.
            arrays = {name: np.asarray(array) for name, array in feed.items()}
            results: list[Any] = self._session.run(None if outputs is None else list(outputs), arrays)
        except Exception as error:
            raise session_error(error) from error
        return results
