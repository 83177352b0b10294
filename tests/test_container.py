"""Program files: round trip, fixed bytes, and one message for everything that can be wrong with one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isa_programs import F32, I32, I64, LAYER, U8, U16, Pieces, demo, demo_images, metadata, softmax_model
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from smec.ir.dialects.isa import encode, run_machine
from smec.ir.errors import SmecError
from smec.runtime.container import Program

BYTES = demo().to_bytes()
START = 8 + int.from_bytes(BYTES[:8], "little")


def refused(data: bytes) -> str:
    """The message with which a file of these bytes is refused."""
    with pytest.raises(SmecError) as caught:
        Program.from_bytes(data, "p.smebin")
    message = str(caught.value)
    assert message.startswith("p.smebin: ")
    assert caught.value.expected is not None and caught.value.found is not None
    return message


# -- files


def test_load_returns_what_was_saved(tmp_path: Path) -> None:
    program = demo()
    path = tmp_path / "p.smebin"
    program.save(path)
    loaded = Program.load(path)
    assert loaded.metadata == program.metadata
    assert loaded.sections.keys() == program.sections.keys()
    for name, array in program.sections.items():
        assert loaded.sections[name].dtype == array.dtype and loaded.sections[name].shape == array.shape
        assert np.array_equal(loaded.sections[name], array)
        assert not array.size or not loaded.sections[name].flags.writeable
        assert loaded.sections[name].flags.aligned
    x = demo_images()
    assert np.array_equal(run_machine(loaded, x).outputs()["y"], run_machine(program, x).outputs()["y"])
    assert loaded.tile_layer.tolist() == [0, 1, 1]
    assert loaded.path == str(path)


def test_bytes_are_fixed(tmp_path: Path) -> None:
    program = demo()
    shuffled = Program(
        dict(reversed(program.sections.items())),
        json.loads(json.dumps(dict(reversed(program.metadata.items())))),
    )
    for name, one in (("a", program), ("b", shuffled), ("c", Program.from_bytes(BYTES))):
        one.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == BYTES == one.to_bytes()


def test_safetensors_reads_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.smebin").write_bytes(BYTES)
    arrays, program = load_file(tmp_path / "p.smebin"), demo()
    assert arrays.keys() == program.sections.keys()
    assert all(np.array_equal(arrays[name], array) for name, array in program.sections.items())
    with safe_open(tmp_path / "p.smebin", framework="numpy") as file:
        strings = file.metadata()
    assert (strings["format"], strings["version"]) == ("smebin", "2")
    assert json.loads(strings["smec"])["metadata"] == program.metadata


def test_numpy_numbers_in_metadata_become_plain(tmp_path: Path) -> None:
    program = demo()
    program.metadata["options"] = {"n": np.int64(3), "x": np.float32(0.5), "list": np.arange(2), "pair": (1, 2)}
    program.save(tmp_path / "p")
    assert Program.load(tmp_path / "p").metadata["options"] == {"n": 3, "x": 0.5, "list": [0, 1], "pair": [1, 2]}


@pytest.mark.parametrize("value", [float("nan"), object(), {1: 2, "a": 3}])
def test_metadata_that_json_cannot_hold_is_diagnosed(value: object, tmp_path: Path) -> None:
    program = demo()
    program.metadata["options"] = {"value": value}
    with pytest.raises(SmecError, match="metadata cannot be stored"):
        program.save(tmp_path / "p")
    assert not list(tmp_path.iterdir())


def test_section_that_cannot_be_stored_is_diagnosed() -> None:
    with pytest.raises(SmecError, match=r"section 'cells' cannot be stored .*found complex128"):
        demo().replace_section("cells", np.zeros(3, complex))


def test_replaced_section_is_a_new_program() -> None:
    program = demo()
    cells = program.sections["cells"].copy()
    cells[0, 0, 0] ^= 1
    changed = program.replace_section("cells", cells)
    changed.validate()
    assert changed.to_bytes() != BYTES == program.to_bytes()
    x = demo_images()
    first = [run_machine(p, x).accumulators[0][0] for p in (program, changed)]
    assert not np.array_equal(*first)


def test_file_is_replaced_at_once_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "p.smebin"
    demo().save(path)
    old = Program.load(path)
    demo().replace_section("weights.0", np.arange(4)).save(path)
    assert "weights.0" in Program.load(path).sections and "weights.0" not in old.sections
    assert np.array_equal(old.sections["cells"], demo().sections["cells"])  # the old map still stands
    bad = demo().replace_section("pool_f32", np.zeros(0, np.float32))
    with pytest.raises(SmecError, match="leaves pool_f32"):
        bad.save(path)
    assert "weights.0" in Program.load(path).sections
    assert [p.name for p in tmp_path.iterdir()] == ["p.smebin"]


def test_unreadable_and_unwritable_places_are_diagnosed(tmp_path: Path) -> None:
    with pytest.raises(SmecError, match=r"cannot read the program .*found No such file"):
        Program.load(tmp_path / "none.smebin")
    with pytest.raises(SmecError, match=r"cannot read the program .*found Is a directory"):
        Program.load(tmp_path)
    with pytest.raises(SmecError, match=r"cannot write the program .*found No such file"):
        demo().save(tmp_path / "no" / "p.smebin")


# -- damage


@settings(max_examples=200)
@given(st.integers(0, len(BYTES) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(position: int, change: int) -> None:
    data = bytearray(BYTES)
    data[position] ^= change
    refused(bytes(data))


def test_any_flipped_bit_of_the_frame_is_refused() -> None:
    # the length, the first bytes of the header, its end with the padding, and the digest of the header itself
    digest = BYTES.index(b"header_sha256")
    for position in (*range(32), *range(START - 16, START), *range(digest, digest + 90)):
        for bit in range(8):
            data = bytearray(BYTES)
            data[position] ^= 1 << bit
            refused(bytes(data))


@settings(max_examples=200)
@given(st.integers(0, len(BYTES) - 1))
def test_any_truncation_is_refused(length: int) -> None:
    refused(BYTES[:length])


def test_truncated_file_on_disk_is_refused(tmp_path: Path) -> None:
    for length in (0, 7, START, len(BYTES) - 1):
        (tmp_path / "p").write_bytes(BYTES[:length])
        with pytest.raises(SmecError) as caught:
            Program.load(tmp_path / "p")
        assert str(caught.value).startswith(str(tmp_path / "p") + ": ")


@given(st.binary(max_size=300))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    refused(data)
    refused(len(data).to_bytes(8, "little") + data)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "w.safetensors", {"format": "pt"})
    foreign = (tmp_path / "w.safetensors").read_bytes()
    assert refused(foreign) == "p.smebin: not a program file (expected format 'smebin', found format 'pt')"
    assert "a JSON header" in refused(b"\x10" + bytes(7) + b"PK\x03\x04" + bytes(60))
    assert "truncated (expected a header of 2 to" in refused(softmax_model(3))
    assert "at least 8 bytes" in refused(b"")
    assert "format None" in refused(b"\x02" + bytes(7) + b"[]")
    assert "the file has bytes after its last section" in refused(BYTES + b"\0")


def forged(change: Callable[[dict[str, Any], dict[str, Any]], Any], data: bytes | None = None) -> bytes:
    """The demo's file with another header whose own checksum is right: change(header, document)."""
    import hashlib

    header = json.loads(BYTES[8:START])
    strings = header["__metadata__"]
    document = json.loads(strings["smec"])
    change(header, document)
    strings["smec"] = json.dumps(document)
    strings["header_sha256"] = "0" * 64
    raw = json.dumps(header, separators=(",", ":")).encode()
    digest = hashlib.sha256(raw).hexdigest().encode()
    raw = raw.replace(b'"header_sha256":"' + b"0" * 64, b'"header_sha256":"' + digest)
    return len(raw).to_bytes(8, "little") + raw + (BYTES[START:] if data is None else data)


def entry(name: str, **changes: Any) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    return lambda header, _: header[name].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda h, _: h["__metadata__"].update(version="1"),
            "unknown version of the program format (expected 2, found '1'",
        ),
        (lambda h, _: h["__metadata__"].update(more="x"), "bad file metadata"),
        (lambda h, _: h.pop("code"), "wrong extent"),
        (lambda _, d: d["sha256"].pop("code"), "checksums and sections differ"),
        (lambda _, d: d["sha256"].update(code="00"), "section 'code' is damaged (expected SHA-256 00..., found"),
        (lambda _, d: d.pop("metadata"), "metadata has the wrong type (expected an object, found None"),
        (lambda _, d: d.pop("sha256"), "bad metadata document"),
        (lambda _, d: d["metadata"].pop("layers"), "metadata lacks the key 'layers'"),
        (
            lambda _, d: d["metadata"].update(act_bits="8"),
            "metadata.act_bits has the wrong type (expected int, found '8'",
        ),
        (
            lambda _, d: d["metadata"].update(act_bits=True),
            "metadata.act_bits has the wrong type (expected int, found Tr",
        ),
        (lambda _, d: d["metadata"].update(note=float("nan")), "bad metadata document"),
        (lambda _, d: d["metadata"]["inputs"][0].update(shape=[1.0]), "metadata.inputs[0].shape[0] has the wrong type"),
        (lambda _, d: d["metadata"]["inputs"][0].update(batch="x"), "metadata.inputs[0].batch has the wrong type"),
        (lambda _, d: d["metadata"]["inputs"][0].update(fixed_batch=1), "inputs[0].fixed_batch has the wrong type"),
        (lambda _, d: d["metadata"]["host"][0].update(ops={"A": "1"}), "metadata.host[0].ops.A has the wrong type"),
        (entry("code", dtype="BF16"), "bad header entry 'code'"),
        (entry("code", dtype=[]), "bad header entry 'code'"),
        (entry("code", shape="x"), "bad header entry 'code'"),
        (entry("code", shape=[True, 8]), "bad header entry 'code'"),
        (entry("code", shape=[-1, 8]), "bad header entry 'code'"),
        (entry("code", shape=[1 << 50, 0]), "bad header entry 'code'"),
        (entry("code", shape=[1] * 100), "bad header entry 'code'"),
        (entry("code", data_offsets=[0]), "bad header entry 'code'"),
        (entry("code", data_offsets=["0", 1]), "bad header entry 'code'"),
        (entry("code", data_offsets=[0, 8]), "section 'code' has a wrong extent"),
        (lambda h, _: h.update(code=3), "bad header entry 'code'"),
    ],
)
def test_forged_headers_are_refused(change: Callable[[dict[str, Any], dict[str, Any]], Any], message: str) -> None:
    assert message in refused(forged(change))


# -- structure


def edit(name: str, index: Any, value: Any) -> Callable[[Program], Program]:
    """Change numbers of a section of the demo."""

    def change(program: Program) -> Program:
        array = program.sections[name].copy()
        array[index] = value
        return program.replace_section(name, array)

    return change


def document(**changes: Any) -> Callable[[Program], Program]:
    """Change the demo's metadata."""
    return lambda program: Program(program.sections, {**program.metadata, **changes})


def port(kind: str, **changes: Any) -> Callable[[Program], Program]:
    return lambda program: document(**{kind: [{**program.metadata[kind][0], **changes}]})(program)


TARGET_OF_DEMO = demo().metadata["target"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: Program({k: v for k, v in p.sections.items() if k != "agus"}, p.metadata),
            "a section is missing (ex",
        ),
        (lambda p: p.replace_section("extra", np.zeros(1)), "unknown section"),
        (
            lambda p: p.replace_section("agus", np.zeros((3, 13), np.int64)),
            "section 'agus' has the wrong layout (expected",
        ),
        (
            lambda p: p.replace_section("cells", p.sections["cells"][:, :3]),
            "'cells' has the wrong layout (expected uint8 [",
        ),
        (lambda p: p.replace_section("code", p.sections["code"].astype(np.int64)), "'code' has the wrong layout"),
        (lambda p: p.replace_section("tile_shift", p.sections["tile_shift"][1:]), "'tile_shift' has the wrong layout"),
        (lambda p: p.replace_section("host.0", np.zeros((1, 1), np.uint8)), "'host.0' has the wrong layout"),
        (lambda p: p.replace_section("host.1", np.zeros(1, np.uint8)), "host sections do not match metadata.host"),
        (
            lambda p: document(host=[{**p.metadata["host"][0], "flops": -1}])(p),
            "metadata.host[0].flops (expected 0 to 2^63 - 1, found -1)",
        ),
        (
            lambda p: document(host=[{**p.metadata["host"][0], "flops": 10**400}])(p),
            "metadata.host[0].flops (expected 0 to 2^63 - 1, found 1000",
        ),
        (lambda p: p.replace_section("sample.z", np.zeros(1)), "section 'sample.z' belongs to no input"),
        (lambda p: p.replace_section("sample.x", np.zeros((1, 16))), "section 'sample.x' does not fit its input"),
        (edit("buffers", (0, 0), 2), "buffer 0: unknown core (expected 0 to 1, found 2)"),
        (edit("buffers", (1, 1), 3), "buffer 1: unknown space"),
        (edit("buffers", (1, 2), -1), "buffer 1: bad base address"),
        (edit("buffers", (1, 3), -1), "buffer 1: bad size"),
        (edit("buffers", (1, 4), 7), "buffer 1: unknown dtype code"),
        (edit("agus", (0, 0), 99), "address generator 0: unknown buffer"),
        (edit("agus", (0, 1), 1), "address generator 0 leaves its buffer"),
        (edit("agus", (0, 1), -1), "address generator 0: bad offset"),
        (edit("agus", (0, -2), 0), "address generator 0: bad count"),
        (edit("agus", (0, -1), -(1 << 62)), "address generator 0: bad stride"),
        (edit("agus", (0, -1), 2), "address generator 0 leaves its buffer"),
        (edit("agus", (0, slice(2, None, 2)), 1 << 29), "address generator 0: too many points"),
        (edit("tile_xbars", (0, 1), 1), "tile 1: its crossbars do not follow those of the tile before"),
        (edit("tile_xbars", (0, 1), -2), "tile 0: bad crossbar count"),
        (edit("tile_rows", (0, 0), -2), "tile 0: bad row address"),
        (edit("tile_rows", (0, 3), 7), "instruction 3 (mvm): the tile leaves the buffer of 'src'"),
        (edit("tile_cols", (0, 1), 2), "instruction 3 (mvm): the tile leaves the buffer of 'dst'"),
        (edit("tile_shift", (1, 0), 33), "tile 1: bad row shift"),
        (edit("tile_offset", 1, -1), "tile 1: bad offset"),
        (edit("xbar_place", (0, 0), 9), "crossbar 0: unknown core"),
        (edit("xbar_place", (0, 0), 1), "places and physical crossbars contradict each other"),
        (edit("xbar_place", (0, slice(0, 2)), [1, 3]), "not in the core of its tile"),
        (edit("xbar_place", (0, 1), 4), "crossbar 0: slot outside its core"),
        (edit("xbar_place", (0, 1), 1), "places and physical crossbars contradict each other"),
        (edit("xbar_place", (0, 2), 1), "crossbar 0: its rows leave the physical crossbar"),
        (edit("xbar_place", (2, 3), 4), "crossbar 2: its columns leave the physical crossbar"),
        (edit("xbar_phys", 0, 4), "crossbar 0: unknown physical crossbar"),
        (edit("xbar_phys", 0, 1), "places and physical crossbars contradict each other"),
        (edit("xbar_group", (2, 3), 0), "crossbar 2: drives unused rows"),
        (edit("xbar_group", (0, 0), 2), "crossbar 0: row groups are not numbered 0, 1, 2, ..."),
        (edit("xbar_group", (0, 0), 4), "crossbar 0: bad row group"),
        (document(target={**TARGET_OF_DEMO, "concurrent_rows": 3}), "crossbar 0: a row group drives too many rows"),
        (document(target={**TARGET_OF_DEMO, "adc_bits": 0}), "metadata.target: bad value of 'adc_bits'"),
        (document(target={}), "metadata.target: bad value of 'rows'"),
        (document(act_bits=17), "metadata.act_bits is out of range (expected 1 to 16, found 17)"),
        (edit("core_table", (0, 1), 0), "core 0: bad instruction count"),
        (edit("core_table", (1, 0), 3), "core 1: its instructions do not follow"),
        (edit("core_table", (1, 1), 3), "core_table does not cover the code"),
        (edit("code", (0, 0), 99), "instruction 0: unknown opcode"),
        (edit("code", (0, 7), 1), "instruction 0: unused bits are set"),
        (edit("code", 2, 0), "instruction 2: unknown opcode"),
        (
            lambda p: edit("code", 0, encode("halt"))(p),
            "do not end with its only halt (expected halt there, and there o",
        ),
        (edit("code", (0, 1), 99), "instruction 0 (fill): 'dst' is not in its table (expected 0 to"),
        (edit("code", (3, 3), 3), "instruction 3 (mvm): 'tile' is not in its table"),
        (edit("code", (3, 3), 1), "instruction 3 (mvm): the tile is in another core"),
        (edit("code", (4, 7), 2), "instruction 4 (requant): 'layer' is not in its table"),
        (edit("code", (6, 1), 2), "instruction 6 (send): 'dst_core' is not in its table"),
        (edit("code", (6, 1), 0), "instruction 6 (send): a core sends to itself"),
        (edit("code", (6, 3), 8), "message 0: send and receive differ in (sender, receiver, token, elements, dtype)"),
        (edit("code", 6, encode("halt")), "do not end with its only halt"),
        (
            lambda p: document(layers=[{**LAYER, "tiles": 3}, {**LAYER, "tile_first": 3, "tiles": 1}])(p),
            "cover the tiles",
        ),
        (
            lambda p: document(layers=[{**LAYER, "tile_first": 1}] * 2)(p),
            "layer 'l0': its tiles do not follow the layer",
        ),
        (port("inputs", agu=-1), "input 'x': unknown address generator"),
        (port("inputs", shape=[1, 15]), "input 'x': shape and address generator differ (expected 16 elements"),
        (port("inputs", dtype="float64"), "input 'x': wrong dtype (expected float32, found float64)"),
        (port("inputs", batch=4), "input 'x': bad batch axis (expected an axis of extent 1, or null, found 4)"),
        (lambda p: document(inputs=p.metadata["inputs"] * 2)(p), "inputs share a name"),
        (port("outputs", agu=99), "output 'y': unknown address generator"),
    ],
)
def test_malformed_programs_are_refused(change: Callable[[Program], Program], message: str) -> None:
    program = change(copy.deepcopy(demo()))
    with pytest.raises(SmecError) as caught:
        program.validate()
    assert message in str(caught.value)
    assert message in refused(program.to_bytes())


def _maxpool(p: Pieces, reach: int, elsewhere: bool = False) -> None:
    """A window of 2 points, `reach` apart, at 2 places of a buffer of 4 elements."""
    image = p.buffer(4, U8)
    window = p.agu(p.buffer(4, U8) if elsewhere else image, (2, reach))
    p.emit("maxpool", dst=p.array(2, U8), src=p.agu(image, (2, 1), offset=1), window=window)


def _gather(p: Pieces, *table: int) -> None:
    p.emit("gather", dst=p.array(3, U8), src=p.agu(p.buffer(4, U8), offset=1), table=p.i64(*table))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.emit("copy", dst=p.array(2, U8), src=p.array(3, U8)), "'dst' and 'src' do not run in step"),
        (lambda p: p.emit("copy", dst=p.array(2, U8), src=p.array(2, U16)), "instruction 0 (copy): dtypes differ"),
        (
            lambda p: p.emit("copy", dst=p.agu(p.buffer(2, U8), (2, 0)), src=p.array(2, U8)),
            "instruction 0 (copy): 'dst' writes an address twice",
        ),
        (
            lambda p: p.emit(
                "copy", dst=p.agu(p.buffer(9, U8), (3, 2), (3, 1)), src=p.agu(p.buffer(9, U8), (3, 3), (3, 1))
            ),
            "'dst' writes an address twice",
        ),
        (lambda p: p.emit("accadd", dst=p.array(2, U8), src=p.array(2, I32)), "'dst' has a wrong dtype"),
        (
            lambda p: p.emit("dequantize", dst=p.array(1, F32), src=p.array(1, I32), params=p.f32(1), zero_point=0),
            "'src' has",
        ),
        (lambda p: p.emit("copy", dst=p.array(2, U8), src=p.array(2, U8, core=1)), "'src' is in another core"),
        (
            lambda p: p.emit("init", dst=p.array(3, I32), table=p.i64(1, 2), length=2),
            "'length' is not the innermost count",
        ),
        (lambda p: p.emit("init", dst=p.array(3, I64), table=p.i64(1, 2), length=3), "table 'table' leaves pool_i64"),
        (lambda p: p.emit("lut", dst=p.array(1, U8), src=p.array(1, U8), table=p.u16(*range(255))), "leaves pool_u16"),
        (
            lambda p: p.emit("rescale", dst=p.array(1, U8), src=p.array(1, U8), params=p.f32(1, 1), lo=0, hi=256),
            "'hi' does not fit the destination (expected its dtype, found 256)",
        ),
        (
            lambda p: p.emit("rescale", dst=p.array(1, U8), src=p.array(1, U8), params=p.f32(1, 1), lo=9, hi=8),
            "'lo' exceeds 'hi'",
        ),
        (
            lambda p: p.emit("rescale", dst=p.array(1, U8), src=p.array(1, U8), params=p.f32(1), lo=0, hi=8),
            "leaves pool_f32",
        ),
        (lambda p: _maxpool(p, 1, elsewhere=True), "instruction 0 (maxpool): bad window (expected offset 0 in"),
        (lambda p: _maxpool(p, 2), "the window leaves the buffer of 'src' (expected addresses within it, found 4)"),
        (
            lambda p: _gather(p, 0, 1, 3),
            "the table leaves the buffer of 'src' (expected addresses within it, found [1 4])",
        ),
        (lambda p: _gather(p, 0, -2, 2), "the table leaves the buffer of 'src'"),
        (lambda p: _gather(p, 0, -(1 << 63), (1 << 63) - 1), "the table leaves the buffer of 'src'"),
        (lambda p: _gather(p, 0), "table 'table' leaves pool_i64"),
        (
            lambda p: p.emit("host", region=0, first_in=p.i64(5), n_in=1, first_out=0, n_out=0),
            "instruction 0 (host): 'first_in' lists no address generator (expected an index into agus, found 5)",
        ),
        (
            lambda p: p.emit("host", region=0, first_in=p.i64(p.array(1, U8, core=1)), n_in=1, first_out=0, n_out=0),
            "instruction 0 (host): 'first_in' lists a buffer of another core",
        ),
        (
            lambda p: p.emit(
                "host", region=0, first_in=0, n_in=0, first_out=p.i64(p.agu(p.buffer(1, U8), (2, 0))), n_out=1
            ),
            "instruction 0 (host): an output writes an address twice",
        ),
        (lambda p: p.emit("send", dst_core=1, src=p.array(1, U8), token=0, kind=0), "sends and receives do not pair"),
    ],
)
def test_malformed_instructions_are_refused(write: Callable[[Pieces], Any], message: str) -> None:
    p = Pieces()
    p.streams = [[], []]
    write(p)
    p.sections["host.0"] = np.zeros(1, np.uint8)
    program = p.program(host=[{"name": "h", "batchable": True, "macs": 0, "flops": 0, "ops": {}}])
    with pytest.raises(SmecError) as caught:
        program.validate()
    assert message in str(caught.value)


@settings(max_examples=100)
@given(st.data())
def test_validated_programs_never_leave_their_arrays(data: st.DataObject) -> None:
    """Change any number of any table: the program is refused, or runs without touching anything that it may not."""
    program = demo()
    names = [n for n, a in program.sections.items() if a.size and not n.startswith(("host.", "sample.", "pool_f32"))]
    name = data.draw(st.sampled_from(sorted(names)))
    array = program.sections[name].copy()
    info = np.iinfo(array.dtype)
    value = data.draw(st.one_of(st.integers(max(info.min, -3), 12), st.integers(info.min, info.max)))
    array.reshape(-1)[data.draw(st.integers(0, array.size - 1))] = value
    changed = program.replace_section(name, array)
    try:
        changed.validate()
    except SmecError:
        return
    if changed.sections["buffers"][:, 3].max() > 1 << 20:
        return  # allowed, but too large to run here
    try:
        run_machine(changed, demo_images(1))
    except SmecError as error:
        assert error.message.startswith(("deadlock", "a host region", "host region"))


def test_empty_program_is_a_program(tmp_path: Path) -> None:
    program = Pieces().program()
    program.save(tmp_path / "p")
    assert Program.load(tmp_path / "p").to_bytes() == program.to_bytes()
    assert metadata()["layers"] == []
