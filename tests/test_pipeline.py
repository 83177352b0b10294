"""Passes and pipelines: text, editing, running, and every message."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import smec.passes
from ir_cases import F32, HERE, Leaf, finish, make_module
from smec.ir.dialects.builtin import ModuleOp
from smec.ir.errors import SmecError, SourceSpan
from smec.passes import base
from smec.passes.base import Pass, PassContext, levels, options, pass_class, pass_names, register_pass
from smec.passes.pipeline import Pipeline, parse_pipeline


@register_pass
@dataclass(frozen=True)
class TestMark(Pass):
    """Set an attribute of the module."""

    __test__ = False
    name = "test-mark"
    ensures = ("test.marked",)

    depth: int | Literal["auto"] = field(default="auto", metadata={"doc": "how deep"})
    shift: Literal["fit", "leading-one"] = "fit"
    max_error: float | None = None
    sizes: tuple[int, ...] = ()
    weights: tuple[float, ...] = (0.5,)
    label: str = ""
    on: bool = False

    def __post_init__(self) -> None:
        if self.depth == 99:
            raise SmecError("depth is out of range", expected="at most 98", found=self.depth)

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        changed = module.attributes.get("mark") != self.label
        module.attributes["mark"] = self.label
        context.report[self.name] = {"label": self.label}
        return changed


@register_pass
@dataclass(frozen=True)
class TestNeeds(Pass):
    """Needs the mark, and a bound."""

    __test__ = False
    name = "test-needs"
    requires = ("test.marked",)
    forbids = ("test.done",)
    ensures = ("test.done",)

    bound: int

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        return False


@dataclass(frozen=True)
class Lie(Pass):
    """Changes the module and says that it does not."""

    name = "test-lie"

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        module.attributes["lie"] = True
        return False


@dataclass(frozen=True)
class Break(Pass):
    """Leaves an invalid module."""

    name = "test-break"

    def run(self, module: ModuleOp, context: PassContext) -> bool:
        module.graph.block.insert_before(
            module.graph.terminator,
            Leaf.create([], [F32], {"x": [1]}, location=HERE),  # type: ignore[dict-item]
        )
        return True


def module_of() -> ModuleOp:
    module, block = make_module([F32])
    finish(block, list(block.args))
    return module


# -- text --------------------------------------------------------------------------------------------------------------


def test_parse() -> None:
    pipeline = parse_pipeline(' test-mark{depth=3 max-error=0.5 sizes=1,2 label="a b" on=true} , test-needs{bound=-1}')
    assert pipeline.passes == [
        TestMark(depth=3, max_error=0.5, sizes=(1, 2), label="a b", on=True),
        TestNeeds(bound=-1),
    ]
    assert pipeline.text() == 'test-mark{depth=3 max-error=0.5 sizes=1,2 label="a b" on=true},test-needs{bound=-1}'
    assert len(parse_pipeline("")) == 0
    assert parse_pipeline("test-mark{}") == parse_pipeline("test-mark")


marks = st.builds(
    TestMark,
    depth=st.integers(-5, 50) | st.just("auto"),
    shift=st.sampled_from(["fit", "leading-one"]),
    max_error=st.none() | st.floats(allow_nan=False),
    sizes=st.lists(st.integers()).map(tuple),
    weights=st.lists(st.floats(allow_nan=False)).map(tuple),
    label=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["7", "true", "none", "nan", 'a"\\\n']),
    on=st.booleans(),
)


@given(st.lists(marks, max_size=3))
def test_text_is_the_inverse(passes: list[TestMark]) -> None:
    pipeline = Pipeline(passes)
    assert parse_pipeline(pipeline.text()) == pipeline


FAULTS = {
    "test-mrak": "1:1: unknown pass 'test-mrak'\n  test-mrak\n  [\\^]{9}\nhint: did you mean 'test-mark'",
    "zzzzzz": "1:1: unknown pass 'zzzzzz'\n  zzzzzz\n  [\\^]{6}\nhint: `smec passes` lists them",
    "test-mark{dpeth=3}": (
        "pass 'test-mark' has no option 'dpeth'\n  test-mark{dpeth=3}\n            [\\^]{5}\nhint: did you mean 'depth'"
    ),
    "test-mark{max_error=3}": "no option 'max_error'(.|\n)*did you mean 'max-error'",
    "test-needs{zz=1}": "hint: options: bound",
    "test-mark{depth=2.5}": (
        "1:17: wrong value for option 'depth' of pass 'test-mark' .expected int|auto, found 2.5.\n"
        "  test-mark{depth=2.5}\n                  \\^\\^\\^"
    ),
    "test-mark{on=1}": "expected true.false, found 1",
    "test-mark{max-error=x}": "expected float.none, found x",
    "test-mark{sizes=1,x}": "expected list of int, found 1,x",
    "test-mark{shift=left}": "expected fit.leading-one, found left",
    'test-mark{depth="3"}': 'expected int.auto, found "3"',
    "test-mark{depth=1 depth=2}": "1:19: option 'depth' is given twice",
    "test-mark{depth=99}": "1:1: depth is out of range .expected at most 98, found 99",
    "test-needs": "1:1: pass 'test-needs' lacks its option 'bound' .expected int",
    "test-mark;": "1:10: syntax error .*found ';'",
    "test-mark{depth=": "1:17: syntax error .expected a value, found the end of the text",
    "test-mark{depth}": "1:16: syntax error .expected '=', found '}'",
    "test-mark,": "1:11: syntax error .expected a pass name, found the end of the text",
    'test-mark{label="a}': "1:17: syntax error",
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults(text: str) -> None:
    with pytest.raises(SmecError, match=FAULTS[text]) as caught:
        parse_pipeline(text)
    assert isinstance(caught.value.location, SourceSpan)
    assert caught.value.location.file == "<pipeline>"


def test_too_long() -> None:
    with pytest.raises(SmecError, match="pipeline text is too long"):
        parse_pipeline(" " * 70_000)


# -- options and registry ----------------------------------------------------------------------------------------------


def test_options() -> None:
    found = {o.name: (o.type_text, o.default, o.required, o.doc) for o in options(TestMark)}
    assert found["depth"] == ("int|auto", "auto", False, "how deep")
    assert found["max-error"] == ("float|none", None, False, "")
    assert found["weights"] == ("list of float", (0.5,), False, "")
    assert next(o for o in options(TestNeeds)).required


def test_values_without_text() -> None:
    for value in [("a,b",), ("",)]:
        with pytest.raises(ValueError, match="has no form in pipeline text"):
            base.format_value(value)


def test_registry() -> None:
    assert pass_class("test-mark") is TestMark
    assert {"test-mark", "test-needs", *base.BUILTIN_PASSES} <= set(pass_names())
    with pytest.raises(SmecError, match="'test-mark' is taken by"):
        register_pass(dataclass(frozen=True)(type("Other", (Pass,), {"name": "test-mark"})))
    with pytest.raises(SmecError, match=r"no valid name .expected lower-case words, found 'A b'"):
        register_pass(dataclass(frozen=True)(type("Other", (Pass,), {"name": "A b"})))
    with pytest.raises(SmecError, match="is not a frozen dataclass"):
        register_pass(type("Other", (Pass,), {"name": "other"}))


def test_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        def __init__(self, name: str, value: Any) -> None:
            self.name, self.loaded, self.value = name, value, "other.package:Thing"

        def load(self) -> Any:
            if isinstance(self.loaded, Exception):
                raise self.loaded
            return self.loaded

    points = [Point("test-lie", Lie), Point("test-bad", ImportError("no module")), Point("test-odd", 3)]
    monkeypatch.setattr(base.REGISTRY, "offered", lambda: {p.name: p for p in points})
    monkeypatch.setattr(base.REGISTRY, "known", dict(base.PASSES))
    assert "test-lie" in pass_names()
    assert parse_pipeline("test-lie").passes == [Lie()]
    with pytest.raises(SmecError, match=r"'test-bad' cannot be loaded from other.package:Thing: Import.*: no module"):
        parse_pipeline("test-bad")
    with pytest.raises(SmecError, match="registered as pass 'test-odd' is no pass class"):
        parse_pipeline("test-odd")


def test_the_table_of_built_in_passes_is_complete() -> None:
    folder = Path(smec.passes.__path__[0])
    registered = {
        p.stem for p in folder.glob("*.py") if re.search("^@register_pass$", p.read_text("utf-8"), re.MULTILINE)
    }
    assert {name.replace("-", "_") for name in base.BUILTIN_PASSES} == registered
    for name in base.BUILTIN_PASSES:
        assert pass_class(name).name == name


# -- editing and running -----------------------------------------------------------------------------------------------


def test_editing() -> None:
    pipeline = Pipeline([TestMark(label="1"), TestNeeds(bound=1)])
    pipeline.insert_before("test-needs", Lie()).insert_after("test-needs", Break()).replace("test-mark", TestMark())
    assert pipeline.text() == "test-mark,test-lie,test-needs{bound=1},test-break"
    assert pipeline.remove("test-lie").names == ["test-mark", "test-needs", "test-break"]
    assert list(pipeline) == pipeline.passes
    with pytest.raises(SmecError, match="no pass 'test-marks' in the pipeline\nhint: did you mean 'test-mark'"):
        pipeline.remove("test-marks")
    with pytest.raises(SmecError, match="hint: the pipeline is empty"):
        Pipeline().index("x")


def test_run() -> None:
    module, context = module_of(), PassContext()
    calls: list[object] = []
    pipeline = parse_pipeline("test-mark{label=a},test-needs{bound=1}")
    changed = pipeline.run(
        module,
        context,
        before=lambda item, _: calls.append(("before", item.name)),
        after=lambda item, _, changed: calls.append(("after", item.name, changed)),
        check_changed=True,
    )
    assert changed
    assert calls == [
        ("before", "test-mark"),
        ("after", "test-mark", True),
        ("before", "test-needs"),
        ("after", "test-needs", False),
    ]
    assert levels(module) == ("test.marked", "test.done")
    assert context.report["test-mark"] == {"label": "a"}
    assert [(r["pass"], r["changed"]) for r in context.report["pipeline"]] == [
        ("test-mark{label=a}", True),
        ("test-needs{bound=1}", False),
    ]
    assert all(r["seconds"] >= 0 for r in context.report["pipeline"])
    assert not Pipeline([TestMark(label="a")]).run(module, context)


def test_levels_are_checked() -> None:
    with pytest.raises(
        SmecError, match=r"pass 'test-needs' requires level test.marked .found levels none.\nhint: run 'test-"
    ):
        parse_pipeline("test-needs{bound=1}").run(module_of(), PassContext())
    with pytest.raises(
        SmecError, match=r"'test-needs' must run before level test.done is reached .*test.marked, test.done"
    ):
        parse_pipeline("test-mark,test-needs{bound=1},test-needs{bound=1}").run(module_of(), PassContext())


def test_misbehaving_passes(tmp_path: Path) -> None:
    message = r"invalid module after pass 'test-break' .plug-in .*test_pipeline.py.: .*\nhint: .*fault of the pass"
    with pytest.raises(SmecError, match=message):
        Pipeline([Break()]).run(module_of(), PassContext(reproducer=tmp_path / "r.mlir"))
    with pytest.raises(SmecError, match=r"pass 'test-lie' .*changed the module and reports that it did not"):
        Pipeline([Lie()]).run(module_of(), PassContext(), check_changed=True)
