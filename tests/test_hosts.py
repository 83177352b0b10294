"""Host regions: embedded ONNX models within programs, one image or a batch at a time, and what goes wrong with them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from crossbar_programs import F32, SPACE_HOST, Network, check
from onnx import TensorProto, helper

from smec.ir.errors import SmecError
from smec.runtime.container import Program
from smec.runtime.simulator import Simulator, simulate


def model(batch: int | str, *nodes: onnx.NodeProto, width: int = 6, outputs: tuple[str, ...] = ("y", "s")) -> bytes:
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, None]) for name in outputs],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    proto.ir_version = 8
    return bytes(proto.SerializeToString())


SOFTMAX = helper.make_node("Softmax", ["x"], ["y"], axis=-1)
SUM = helper.make_node("ReduceSum", ["x"], ["s"], keepdims=1)
SUM_ROWS = helper.make_node("ReduceSum", ["x", "axes"], ["s"], keepdims=1)
AXES = helper.make_node("Constant", [], ["axes"], value_ints=[1])


def host_program(data: bytes, batchable: bool, n_out: int = 2, second: int = 1) -> Program:
    n = Network()
    x, y = n.buffer(6, F32, SPACE_HOST), n.buffer(10, F32, SPACE_HOST)
    n.port("x", n.agu(x), (6,), "float32")
    n.hosts.append((data, batchable))
    # both results in one buffer
    agus = [n.agu(y, 1, (6, 1)), n.agu(y, 8, (second, 1))][:n_out]
    n.emit(
        "host",
        region=0,
        first_in=n.table("pool_i64", [n.agu(x)]),
        n_in=1,
        first_out=n.table("pool_i64", agus),
        n_out=n_out,
    )
    n.port("y", n.agu(y), (10,), "float32", output=True)
    return n.program()


@pytest.mark.parametrize("batch", [1, "N"])
def test_host_regions(batch: int | str) -> None:
    """A region that sums over its batch is not batchable; one that does not may be run at once."""
    random = np.random.default_rng(13)
    inputs = {"x": random.normal(0, 1, (5, 6)).astype(np.float32)}
    check(host_program(model(batch, SOFTMAX, SUM), batchable=False), inputs)
    check(host_program(model(batch, SOFTMAX, AXES, SUM_ROWS), batchable=True), inputs)


def test_host_errors() -> None:
    inputs = {"x": np.zeros((2, 6), np.float32)}
    with pytest.raises(SmecError, match=r"host region 'region0' \(host.0\) is refused"):
        Simulator(host_program(b"nonsense", batchable=False))
    with pytest.raises(SmecError, match="does not fit its instruction"):
        simulate(host_program(model(1, SOFTMAX, SUM), batchable=False, n_out=1), inputs)
    with pytest.raises(SmecError, match="another array than its program expects"):
        simulate(host_program(model(1, SOFTMAX, SUM), batchable=False, second=2), inputs)
    reshape = helper.make_node("Reshape", ["x", "shape"], ["y"])
    shape = helper.make_node("Constant", [], ["shape"], value_ints=[7, 1])
    with pytest.raises(SmecError, match="failed"):
        simulate(host_program(model("N", shape, reshape, outputs=("y",)), batchable=False, n_out=1), inputs)
