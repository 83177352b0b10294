"""What the tests of `smec opt` share: the command, and a plug-in of passes that misbehave.

The fixtures `dumped` and `broken` are in `conftest.py`.
"""

from __future__ import annotations

from click.testing import CliRunner, Result

import shared
from smec import cli

MODEL = shared.EXAMPLES / "digits_resnet.onnx"
CALIB = shared.EXAMPLES / "digits_calib.npz"

#: A plug-in of passes that misbehave, each in its own way.
BROKEN = """
from dataclasses import dataclass

from smec.ir.types import Handle
from smec.ir.dialects.xbar import MvmOp
from smec.passes.base import Pass, register_pass


class OnLayers(Pass):
    requires = ("xbar.tiled",)

    def run(self, module, context):
        op = next(op for op in module.graph.ops if isinstance(op, MvmOp))
        return self.spoil(op)


@register_pass
@dataclass(frozen=True)
class Flip(OnLayers):
    name = "flip"

    def spoil(self, op):
        codes = op.codes.array.copy()
        codes[0, 0, 0] += 16
        op.attributes["codes"] = Handle(codes)
        return True


@register_pass
@dataclass(frozen=True)
class Throw(OnLayers):
    name = "throw"

    def spoil(self, op):
        op.attributes["codes"] = Handle(op.codes.array * 0)  # the reproducer must hold the module as it was
        return 1 // 0


@register_pass
@dataclass(frozen=True)
class Forget(OnLayers):
    name = "forget"

    def spoil(self, op):
        del op.attributes["codes"]
        return True


@register_pass
@dataclass(frozen=True)
class Mute(OnLayers):
    name = "mute"

    def spoil(self, op):
        return None


@register_pass
@dataclass(frozen=True)
class Unquantize(OnLayers):
    name = "unquantize"

    def spoil(self, op):
        op.attributes["float_weight"] = op.weight
        return True
"""


def run(*words: object) -> Result:
    """Run `smec opt` with these words."""
    return CliRunner().invoke(cli.main, ["opt", *map(str, words)])
