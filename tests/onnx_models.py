"""Small ONNX models for tests of the front end, and what onnxruntime makes of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from smec.ir.onnx_session import exact_session, session_options

F32 = onnx.TensorProto.FLOAT


def parse(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    """A model in ONNX's text form (without the header), at operator set 17 unless it says otherwise.

    Weights become initializers.
    """
    header = '<ir_version: 8, opset_import: ["": 17]>\n'
    proto = onnx.parser.parse_model(text if text.lstrip().startswith("<") else header + text)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return proto


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str],
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    domains: Mapping[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model of float inputs."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, F32, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name, type=helper.make_tensor_type_proto(F32, None)) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, version) for domain, version in (domains or {}).items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))


def normal(seed: int, *shape: int) -> np.ndarray:
    """Seeded standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def expected(proto: onnx.ModelProto | str, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """onnxruntime's outputs of the original model, image by image, stacked: (B, *shape) each."""
    source: Any = proto if isinstance(proto, str) else proto.SerializeToString()
    session = exact_session(source, session_options())
    count = min(len(a) for a in inputs.values())
    rows = [session.run(None, {n: a[i] for n, a in inputs.items()}) for i in range(count)]
    return [np.stack([row[k] for row in rows]) for k in range(len(rows[0]))]
