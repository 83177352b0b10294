"""Whole programs through the plan, against the reference machine: every instruction, several cores, reused and shared
buffers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from crossbar_programs import F32, I32, SPACE_HOST, U8, U16, Network, check
from hypothesis import given
from hypothesis import strategies as st

from smec.ir.errors import SmecError
from smec.ir.isa_machine import run_machine
from smec.runtime.simulator import Simulator, simulate
from smec.runtime.steps import CopyStep, ProductStep


def levels(random: np.random.Generator, *shape: int, top: int = 255) -> np.ndarray:
    return random.integers(0, top + 1, shape).astype(np.uint8)


def simple_tile(
    network: Network, random: np.random.Generator, rows: np.ndarray, cols: np.ndarray, core: int = 0, groups: int = 1
) -> int:
    shape = (len(rows), len(cols))
    planes = [(w, random.integers(0, 2, shape), random.integers(0, groups, len(rows))) for w in (1, -1, 2, -2)]
    for i, (weight, cells, group) in enumerate(planes):
        planes[i] = (weight, cells, np.unique(group, return_inverse=True)[1])
    return network.tile(rows, cols, random.integers(0, 3, len(rows)), 0, planes, core=core)


# -- the vector unit ---------------------------------------------------------------------------------------------------

LOOPS = ((2, 60), (3, 20), (4, 5), (2, 2))  # strided, with gaps: a padded image of five channels, four pixels apart
DENSE = ((2, 24), (3, 8), (4, 2), (2, 1))


@pytest.mark.parametrize("loops", [LOOPS, DENSE])
@pytest.mark.parametrize("out", [U8, U16])
def test_element_wise(loops: tuple[tuple[int, int], ...], out: int) -> None:
    random = np.random.default_rng(0)
    n = Network()
    a, b = n.buffer(130), n.buffer(130)
    n.port("a", n.agu(a), (130,), "uint8")
    n.port("b", n.agu(b), (130,), "uint8")
    first, second = n.agu(a, 3, *loops), n.agu(b, 1, *loops)
    broadcast = n.agu(b, 7, *((count, 0 if i != 3 else 9) for i, (count, _) in enumerate(loops)))
    f32 = n.table
    small = f32("pool_f32", [0.011, 31.0])
    operands: list[tuple[str, dict[str, int]]] = [
        ("add", {"a": first, "b": second, "params": f32("pool_f32", [0.37, 0.61, -3.5]), "lo": 0, "hi": 255}),
        ("add", {"a": first, "b": broadcast, "params": f32("pool_f32", [0.5, 0.5, 0.0]), "lo": 10, "hi": 200}),
        ("mul", {"a": first, "b": broadcast, "params": small, "za": 128, "zb": 7, "lo": 0, "hi": 255}),
        ("rescale", {"src": first, "params": f32("pool_f32", [0.77, 4.5]), "lo": 5, "hi": 199}),
        ("lut", {"src": first, "table": n.table("pool_u16", random.permutation(256))}),
        ("copy", {"src": first}) if out == U8 else ("lut", {"src": second, "table": 0}),
    ]  # fmt: skip
    for i, (mnemonic, more) in enumerate(operands):
        dst = n.buffer(150, out)
        n.emit(mnemonic, dst=n.agu(dst, 2, *loops), **more)
        n.port(f"y{i}", n.agu(dst), (150,), "uint8" if out == U8 else "uint16", output=True)
    check(n.program(), {"a": levels(random, 5, 130), "b": levels(random, 5, 130)})


def test_quantize_and_dequantize() -> None:
    random = np.random.default_rng(1)
    n = Network()
    x = n.buffer(60, F32, SPACE_HOST)
    n.port("x", n.agu(x), (3, 20), "float32")
    q, y = n.buffer(70), n.buffer(60, F32, SPACE_HOST)
    scale = n.table("pool_f32", [0.037])
    # channels last: NCHW in, NHWC out
    n.emit(
        "quantize",
        dst=n.agu(q, 4, (20, 3), (3, 1)),
        src=n.agu(x, 0, (20, 1), (3, 20)),
        params=scale,
        zero_point=101,
        hi=255,
    )
    n.emit(
        "dequantize", dst=n.agu(y, 0, (3, 20), (20, 1)), src=n.agu(q, 4, (3, 1), (20, 3)), params=scale, zero_point=101
    )
    n.port("q", n.agu(q), (70,), "uint8", output=True)
    n.port("y", n.agu(y), (3, 20), "float32", output=True)
    values = random.normal(0, 5, (4, 3, 20)).astype(np.float32)
    values[0, 0, :6] = [np.nan, np.inf, -np.inf, 0.0185, -0.0185, 1e30]
    check(n.program(), {"x": values})


@pytest.mark.parametrize("channels", [1, 5, 16])
def test_pools(channels: int) -> None:
    """A 6 x 7 image in a border of one, windows of 3 x 2 two apart; and the mean of all of it."""
    random = np.random.default_rng(2)
    n = Network()
    width = 9 * channels
    x = n.buffer(8 * width)
    n.emit("fill", dst=n.agu(x), value=0)
    interior = n.agu(x, width + channels, (6, width), (7, channels), (channels, 1))
    n.port("x", interior, (6, 7, channels), "uint8")
    y, z, whole = n.buffer(3 * 4 * channels), n.buffer(3 * 4 * channels), n.buffer(channels)
    src = n.agu(x, 0, (3, 2 * width), (4, 2 * channels), (channels, 1))
    window = n.agu(x, 0, (3, width), (2, channels))
    dst = ((3, 4 * channels), (4, channels), (channels, 1))
    factors = n.table("pool_f32", [*random.uniform(0.1, 0.3, 12), 17.0])
    n.emit("maxpool", dst=n.agu(y, 0, *dst), src=src, window=window)
    n.emit("avgpool", dst=n.agu(z, 0, *dst), src=src, window=window, params=factors, zero_point=30, hi=255)
    mean = n.table("pool_f32", [1 / 42, 12.0])
    everywhere = n.agu(x, 0, (6, width), (7, channels))
    first = n.agu(x, width + channels, (1, 0), (1, 0), (channels, 1))
    n.emit(
        "avgpool",
        dst=n.agu(whole, 0, (1, 0), (channels, 1)),
        src=first,
        window=everywhere,
        params=mean,
        zero_point=12,
        hi=200,
    )
    for name, buffer in (("y", y), ("z", z), ("whole", whole)):
        n.port(name, n.agu(buffer), (n.buffers[buffer][3],), "uint8", output=True)
    check(n.program(), {"x": levels(random, 3, 6, 7, channels)})


def test_gather_fill_and_moves_within_a_buffer() -> None:
    random = np.random.default_rng(3)
    n = Network()
    x, y, w = n.buffer(40), n.buffer(30), n.buffer(8, I32, SPACE_HOST)
    n.port("x", n.agu(x), (40,), "uint8")
    n.emit("fill", dst=n.agu(y), value=9)
    n.emit("fill", dst=n.agu(w, 0, (4, 2)), value=0xFFFFFFFE)
    table = n.table("pool_i64", random.integers(-5, 30, 12))
    n.emit("gather", dst=n.agu(y, 1, (3, 10), (4, 2)), src=n.agu(x, 5, (1, 0)), table=table)
    # source and destination overlap
    n.emit("copy", dst=n.agu(x, 3, (30, 1)), src=n.agu(x, 0, (30, 1)))
    n.emit("fill", dst=n.agu(x, 38, (2, 1)), value=77)
    for name, buffer, dtype in (("x2", x, "uint8"), ("y", y, "uint8"), ("w", w, "int32")):
        n.port(name, n.agu(buffer), (n.buffers[buffer][3],), dtype, output=True)
    check(n.program(), {"x": levels(random, 3, 40)})


# -- values ------------------------------------------------------------------------------------------------------------


def test_old_contents_survive_what_replaces_them() -> None:
    """A buffer is changed in place only when nobody reads what it held: here a copy, an output and a later add do."""
    random = np.random.default_rng(4)
    n = Network()
    x, kept, y = n.buffer(12), n.buffer(12), n.buffer(12)
    n.port("x", n.agu(x), (12,), "uint8")
    params = n.table("pool_f32", [1.0, 1.0, 3.0])
    everything = {"params": params, "lo": 0, "hi": 255}
    n.emit("copy", dst=n.agu(kept), src=n.agu(x))
    n.emit("add", dst=n.agu(x, 2, (5, 1)), a=n.agu(x, 0, (5, 1)), b=n.agu(x, 7, (5, 1)), **everything)
    n.emit("add", dst=n.agu(x, 0, (5, 2)), a=n.agu(x, 1, (5, 2)), b=n.agu(kept, 1, (5, 1)), **everything)
    n.emit("add", dst=n.agu(y), a=n.agu(kept), b=n.agu(x), **everything)
    for name, buffer in (("x2", x), ("kept", kept), ("y", y)):
        n.port(name, n.agu(buffer), (12,), "uint8", output=True)
    inputs = levels(random, 5, 12)
    before = inputs.copy()
    check(n.program(), {"x": inputs})
    np.testing.assert_array_equal(inputs, before)


def test_equal_copies_on_other_cores_are_one_value() -> None:
    """Core 1 gets the whole padded image, core 2 fills its own border and gets the inside: no copies, one unit."""
    random = np.random.default_rng(5)
    n = Network(rows=16, columns=4)
    inside = (1, (3, 5), (3, 1))
    made = [n.buffer(25, core=core) for core in range(3)]
    n.port("x", n.agu(n.buffer(9)), (9,), "uint8")
    n.emit("fill", dst=n.agu(made[0]), value=50)
    lut = n.table("pool_u16", np.arange(256)[::-1])
    n.emit("lut", dst=n.agu(made[0], *inside), src=n.agu(3, 0, (3, 3), (3, 1)), table=lut)
    n.emit("send", dst_core=1, src=n.agu(made[0]), token=1, kind=0)
    n.emit("recv", 1, dst=n.agu(made[1]), src_core=0, token=1)
    n.emit("send", dst_core=2, src=n.agu(made[0], *inside), token=2, kind=0)
    n.emit("fill", 2, dst=n.agu(made[2]), value=50)
    n.emit("recv", 2, dst=n.agu(made[2], *inside), src_core=0, token=2)
    layer = n.layer()
    pixels = ((2, 5), (3, 1))
    accs = []
    for core in range(3):
        acc = n.acc(2 * 3 * 4, core=core)
        tile = simple_tile(n, random, np.array([0, 1, 2, 5, 6, 7, 10, 11, 12])[core * 3 :], np.arange(4), core)
        n.emit("mvm", core, dst=n.agu(acc, 0, (2, 12), (3, 4)), src=n.agu(made[core], 0, *pixels), tile=tile)
        accs.append(acc)
    for core in (1, 2):
        arrived = n.acc(24)
        n.emit("send", core, dst_core=0, src=n.agu(accs[core]), token=9, kind=1)
        n.emit("recv", dst=n.agu(arrived), src_core=core, token=9)
        n.emit("accadd", dst=n.agu(accs[0]), src=n.agu(arrived))
    n.requant(accs[0], ((2, 12), (3, 4), (4, 1)), layer, 4)
    plan = check(n.program(), {"x": levels(random, 3, 9)})
    assert not any(isinstance(step, (CopyStep, ProductStep)) for step in plan.steps)
    assert len(plan.units) == 1


def test_messages_in_another_shape_and_other_borders() -> None:
    random = np.random.default_rng(6)
    n = Network()
    x, y = n.buffer(24), n.buffer(60, core=1)
    n.port("x", n.agu(x), (24,), "uint8")
    n.emit("send", dst_core=1, src=n.agu(x, 1, (2, 12), (5, 2)), token=0, kind=0)
    n.emit("recv", 1, dst=n.agu(y, 3, (10, 4)), src_core=0, token=0)
    out = n.buffer(60, core=1)
    n.emit("maxpool", 1, dst=n.agu(out, 0, (50, 1)), src=n.agu(y, 0, (50, 1)), window=n.agu(y, 0, (4, 2)))
    n.port("y", n.agu(out), (60,), "uint8", output=True)
    check(n.program(), {"x": levels(random, 3, 24)})


def test_pieces_written_in_any_order_are_one_value() -> None:
    """Two halves of the channels, in different order on two cores."""
    random = np.random.default_rng(7)
    n = Network(rows=8, columns=2)
    x = n.buffer(24)
    n.port("x", n.agu(x), (24,), "uint8")
    low, high = ((6, 4), (2, 1)), ((6, 4), (2, 1))
    mine, other = n.buffer(24), n.buffer(24, core=1)
    lut = n.table("pool_u16", random.permutation(256))
    n.emit("lut", dst=n.agu(mine, 2, *high), src=n.agu(x, 0, (6, 2), (2, 1)), table=lut)
    n.emit("lut", dst=n.agu(mine, 0, *low), src=n.agu(x, 12, (6, 2), (2, 1)), table=lut)
    for token, at in ((0, 0), (1, 2)):
        n.emit("send", dst_core=1, src=n.agu(mine, at, (6, 4), (2, 1)), token=token, kind=0)
        n.emit("recv", 1, dst=n.agu(other, at, (6, 4), (2, 1)), src_core=0, token=token)
    out = n.buffer(24, core=1)
    n.emit(
        "add",
        1,
        dst=n.agu(out),
        a=n.agu(other),
        b=n.agu(other),
        params=n.table("pool_f32", [0.3, 0.4, 1.0]),
        lo=0,
        hi=255,
    )
    n.port("y", n.agu(out), (24,), "uint8", output=True)
    plan = check(n.program(), {"x": levels(random, 3, 24)})
    assert not any(isinstance(step, CopyStep) for step in plan.steps)


# -- accumulators ------------------------------------------------------------------------------------------------------


def accumulators(random: np.random.Generator, **more: Any) -> tuple[Network, int, int, int]:
    """A network with an input of 5 pixels x 8, an accumulator buffer of 5 x 6 with a table in it, and a layer."""
    n = Network(rows=8, columns=6, **more)
    x, acc = n.buffer(40), n.acc(30)
    n.port("x", n.agu(x), (40,), "uint8")
    layer = n.layer()
    table = n.table("pool_i64", random.integers(-500, 500, 6))
    n.emit("init", dst=n.agu(acc, 0, (5, 6), (6, 1)), table=table, length=6)
    tile = simple_tile(n, random, np.arange(8), np.arange(6), groups=2)
    n.emit("mvm", dst=n.agu(acc, 0, (5, 6)), src=n.agu(x, 0, (5, 8)), tile=tile)
    return n, x, acc, layer


@pytest.mark.parametrize("adc_bits", [2, 8])
def test_two_readers_share_one_product(adc_bits: int) -> None:
    """Saturated reads are counted once."""
    random = np.random.default_rng(8)
    n, _, acc, layer = accumulators(random, adc_bits=adc_bits)
    n.requant(acc, ((5, 6), (6, 1)), layer, 6)
    other = n.layer()
    n.requant(acc, ((5, 6), (6, 1)), other, 6)
    plan = check(n.program(), {"x": levels(random, 3, 40)})
    assert any(isinstance(step, ProductStep) for step in plan.steps)


@pytest.mark.parametrize("again", [False, True])
def test_products_between_other_readers_are_made_once(again: bool) -> None:
    """Accumulators are copied after one product and used after another: neither product is made, or counted, twice."""
    random = np.random.default_rng(15)
    n, x, acc, layer = accumulators(random, adc_bits=2)
    host = n.buffer(30, I32, SPACE_HOST)
    n.emit("copy", dst=n.agu(host), src=n.agu(acc))
    n.port("sums", n.agu(host), (30,), "int32", output=True)
    tile = simple_tile(n, random, np.arange(8), np.arange(6))
    n.emit("mvm", dst=n.agu(acc, 0, (5, 6)), src=n.agu(x, 0, (5, 8)), tile=tile)
    if again:
        total = n.buffer(30, I32, SPACE_HOST)
        n.emit("copy", dst=n.agu(total), src=n.agu(acc))
        n.port("total", n.agu(total), (30,), "int32", output=True)
    n.requant(acc, ((5, 6), (6, 1)), layer, 6)
    check(n.program(), {"x": levels(random, 3, 40)})


def test_readers_of_pieces() -> None:
    """Channels 0..3 and 4..5 apart, and a layer that reads some pixels only."""
    random = np.random.default_rng(9)
    n, x, acc, layer = accumulators(random)
    first, second = n.buffer(20), n.buffer(10)
    tables = {"mult": n.table("pool_f32", np.full(6, 0.2)), "off": n.table("pool_f32", np.full(6, 90))}
    for dst, at, count in ((first, 0, 4), (second, 4, 2)):
        n.emit(
            "requant", dst=n.agu(dst, 0, (5, count), (count, 1)), src=n.agu(acc, at, (5, 6), (count, 1)), length=count,
            lo=0, hi=255, layer=layer, **tables,
        )  # fmt: skip
        n.port(f"y{at}", n.agu(dst), (5 * count,), "uint8", output=True)
    some, other = n.acc(30), n.layer()
    tile = simple_tile(n, random, np.arange(8), np.arange(6))
    n.emit("mvm", dst=n.agu(some, 0, (5, 6)), src=n.agu(x, 0, (5, 8)), tile=tile)
    third = n.buffer(12)
    n.emit(
        "requant", dst=n.agu(third, 0, (2, 6), (6, 1)), src=n.agu(some, 6, (2, 12), (6, 1)), length=6, lo=0, hi=255,
        layer=other, **tables,
    )  # fmt: skip
    n.port("z", n.agu(third), (12,), "uint8", output=True)
    program = n.program()
    machine = run_machine(program, {"x": (values := levels(random, 3, 40))})
    for engine in ("auto", "adc"):
        result = simulate(program, {"x": values}, engine)
        for name, expected in machine.outputs().items():
            np.testing.assert_array_equal(result.outputs[name].reshape(3, -1), expected.reshape(3, -1))


def test_accumulators_that_are_reused_copied_and_summed() -> None:
    """init again after use, copies of accumulators, sums of parts with other strides."""
    random = np.random.default_rng(10)
    n, x, acc, layer = accumulators(random)
    n.requant(acc, ((5, 6), (6, 1)), layer, 6)
    n.emit("init", dst=n.agu(acc, 2, (5, 6), (3, 1)), table=n.table("pool_i64", [7, -8, 9]), length=3)
    tile = simple_tile(n, random, np.arange(8), np.arange(6))
    n.emit("mvm", dst=n.agu(acc, 0, (5, 6)), src=n.agu(x, 0, (5, 8)), tile=tile)
    part = n.acc(5 * 4)
    n.emit("copy", dst=n.agu(part, 1, (5, 4), (2, 1)), src=n.agu(acc, 3, (5, 6), (2, 1)))
    n.emit("accadd", dst=n.agu(acc, 1, (5, 6), (4, 1)), src=n.agu(part, 0, (5, 4), (4, 1)))
    n.emit("accadd", dst=n.agu(acc), src=n.agu(acc))
    second = n.layer()
    n.layer_tiles[0], n.layer_tiles[1] = n.layer_tiles[0] - 1, 1
    n.requant(acc, ((5, 6), (6, 1)), second, 6)
    host = n.buffer(30, I32, SPACE_HOST)
    n.emit("copy", dst=n.agu(host), src=n.agu(acc))
    n.port("sums", n.agu(host), (30,), "int32", output=True)
    check(n.program(), {"x": levels(random, 3, 40)})


def test_partial_sums_of_two_widths_wrap_as_their_buffers_do() -> None:
    random = np.random.default_rng(11)
    n, _, acc, layer = accumulators(random)
    wide = n.acc(30, wide=True)
    n.emit("init", dst=n.agu(wide, 0, (5, 6), (6, 1)), table=n.table("pool_i64", np.full(6, 2**40)), length=6)
    n.emit("accadd", dst=n.agu(wide), src=n.agu(acc))
    n.requant(wide, ((5, 6), (6, 1)), layer, 6)
    check(n.program(), {"x": levels(random, 3, 40)})


def test_dequantized_outputs() -> None:
    random = np.random.default_rng(12)
    n, _, acc, layer = accumulators(random)
    y = n.buffer(30, F32, SPACE_HOST)
    n.emit(
        "dequant", dst=n.agu(y, 0, (5, 1), (6, 5)), src=n.agu(acc, 0, (5, 6), (6, 1)), length=6, layer=layer,
        mult=n.table("pool_f32", random.normal(0, 0.1, 6)), bias=n.table("pool_f32", random.normal(0, 1, 6)),
        clamp=n.table("pool_f32", [-np.inf, 60.0]),
    )  # fmt: skip
    n.port("y", n.agu(y), (6, 5), "float32", output=True)
    check(n.program(), {"x": levels(random, 4, 40)})


@given(st.integers(0, 2**32 - 1))
def test_random_moves(seed: int) -> None:
    """Random fills, copies, lookups, sends and pools between a few buffers of two cores: whatever is recognised stays
    right.
    """
    random = np.random.default_rng(seed)
    n = Network()
    cores = [0, 0, 1, 1]
    buffers = [n.buffer(24, core=core) for core in cores]
    n.port("x", n.agu(buffers[0]), (24,), "uint8")
    lut = n.table("pool_u16", random.permutation(256))
    shapes = [((24, 1),), ((4, 6), (3, 1)), ((3, 8), (4, 1)), ((12, 2),), ((2, 12), (2, 3))]
    for step in range(random.integers(3, 14)):
        dims = shapes[random.integers(len(shapes))]
        room = 24 - sum((count - 1) * stride for count, stride in dims)
        source, target = random.integers(4, size=2).tolist()
        # few offsets, so that regions often meet exactly
        at, to = (int(random.integers(0, min(room, 4))) for _ in range(2))
        kind = random.integers(4)
        if kind == 0:
            n.emit("fill", cores[target], dst=n.agu(buffers[target], to, *dims), value=int(random.integers(0, 256)))
        elif cores[source] != cores[target]:
            n.emit(
                "send", cores[source], dst_core=cores[target], src=n.agu(buffers[source], at, *dims), token=step, kind=0
            )
            n.emit("recv", cores[target], dst=n.agu(buffers[target], to, *dims), src_core=cores[source], token=step)
        elif kind == 1:
            n.emit(
                "lut",
                cores[target],
                dst=n.agu(buffers[target], to, *dims),
                src=n.agu(buffers[source], at, *dims),
                table=lut,
            )
        else:
            n.emit("copy", cores[target], dst=n.agu(buffers[target], to, *dims), src=n.agu(buffers[source], at, *dims))
    for i, buffer in enumerate(buffers):
        n.port(f"y{i}", n.agu(buffer), (24,), "uint8", output=True)
    check(n.program(), {"x": levels(random, 3, 24)}, engines=("auto",))


# -- malformed programs ------------------------------------------------------------------------------------------------


def test_deadlock_names_cores_and_instructions() -> None:
    n = Network()
    a, b = n.buffer(4), n.buffer(4, core=1)
    for core, other, buffer in ((0, 1, a), (1, 0, b)):
        n.emit("recv", core, dst=n.agu(buffer), src_core=other, token=0)
        n.emit("send", core, dst_core=other, src=n.agu(buffer), token=0, kind=0)
    with pytest.raises(SmecError, match=r"deadlock.*core 0, instruction 0: recv.*core 1, instruction 3: recv"):
        Simulator(n.program())


def test_an_address_outside_its_buffer_is_refused() -> None:
    n = Network()
    a = n.buffer(4)
    n.emit("fill", dst=n.agu(a), value=0)
    program = n.program()
    program.sections["agus"][0, 1] = 1
    with pytest.raises(SmecError, match="leaves its buffer"):
        simulate(program, {})


def test_levels_beyond_the_activation_bits_do_not_reach_a_crossbar() -> None:
    random = np.random.default_rng(14)
    n = Network(act_bits=4, rows=8, columns=6)
    x, acc = n.buffer(8), n.acc(6, core=0)
    n.emit("fill", dst=n.agu(x), value=16)
    layer = n.layer()
    tile = simple_tile(n, random, np.arange(8), np.arange(6))
    n.emit("mvm", dst=n.agu(acc, 0, (1, 0)), src=n.agu(x, 0, (1, 0)), tile=tile)
    n.requant(acc, ((6, 1),), layer, 6)
    with pytest.raises(SmecError, match=r"instruction 1 \(mvm\), core 0: inputs may exceed"):
        Simulator(n.program())
