"""Compiler from ONNX models to ReRAM-crossbar accelerators, and bit-exact functional simulator.

    import smec

    program = smec.compile("model.onnx", calib="calib.npz")
    result = program.simulate("test.npz")

The public names are imported when first used: `import smec` alone is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smec.comparison import compare
    from smec.driver import compile, default_pipeline, lower  # noqa: A004  # the public name is `smec.compile`
    from smec.export import export_onnx
    from smec.inspection import inspect
    from smec.ir.errors import SmecError
    from smec.passes.pipeline import Pipeline, parse_pipeline
    from smec.plugins import load_plugin
    from smec.program import Program, Simulation
    from smec.verification import VerifyReport, verify

#: Where each public name comes from.
_HOME = {
    "Pipeline": "smec.passes.pipeline",
    "Program": "smec.program",
    "Simulation": "smec.program",
    "SmecError": "smec.ir.errors",
    "VerifyReport": "smec.verification",
    "compare": "smec.comparison",
    "compile": "smec.driver",
    "default_pipeline": "smec.driver",
    "export_onnx": "smec.export",
    "inspect": "smec.inspection",
    "load_plugin": "smec.plugins",
    "lower": "smec.driver",
    "parse_pipeline": "smec.passes.pipeline",
    "verify": "smec.verification",
}

__all__ = [
    "Pipeline",
    "Program",
    "Simulation",
    "SmecError",
    "VerifyReport",
    "compare",
    "compile",
    "default_pipeline",
    "export_onnx",
    "inspect",
    "load_plugin",
    "lower",
    "parse_pipeline",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("smec")
    if name not in _HOME:
        raise AttributeError(f"module 'smec' has no attribute '{name}'")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
