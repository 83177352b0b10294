"""What a compile may choose, and the pipeline that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smec.ir.errors import SmecError


@dataclass(frozen=True)
class Options:
    """What a compile may choose (see `compile`); `pipeline_text` is the pipeline that follows from it.

    `sign`, `quantizer` and `shift` are None for what suits the squeeze depth: "differential", "nearest" and
    "leading-one"; with the depth "auto" all sign schemes, "admm" and "fit".
    """

    method: str = "mse"
    pattern: str = "uniform"
    bits: int = 8
    act_bits: int = 8
    scale: str = "column"
    sign: str | None = None
    sign_rows: int = 8
    quantizer: str | None = None
    squeeze: int | Literal["auto"] = 0
    shift: str | None = None
    max_error: float | None = None
    max_crossbars: int | None = None

    def check(self) -> None:
        """Refuse numbers out of range and words that nothing offers, before any work is done.

        Raises:
            SmecError: at the first such option.
        """
        from smec.passes import patterns

        if not 1 <= self.act_bits <= 16:
            raise SmecError("activation bits out of range", expected="1 to 16", found=self.act_bits)
        if self.squeeze != "auto" and not 0 <= self.squeeze < self.bits:
            raise SmecError("squeeze depth out of range", expected=f"0 to {self.bits - 1}", found=self.squeeze)
        self._check_budget()
        patterns.parse(self.pattern, self.bits)
        if self.rounding not in quantizers():
            known = ", ".join(quantizers())
            raise SmecError("unknown quantizer", expected=f"one of {known}", found=repr(self.rounding))
        if self.squeeze == "auto" and not knows_squeeze(self.rounding):
            raise SmecError("quantizer with squeeze 'auto'", expected="admm or another that has an option 'squeeze'",
                            found=repr(self.rounding))  # fmt: skip

    def _check_budget(self) -> None:
        budgets = [b for b in (self.max_error, self.max_crossbars) if b is not None]
        if self.squeeze == "auto" and len(budgets) != 1:
            raise SmecError("squeeze 'auto' needs a budget", expected="one of max-error and max-crossbars",
                            found="both" if budgets else "none")  # fmt: skip
        if self.squeeze == "auto" and self.sign == "polarized":
            raise SmecError("sign scheme with squeeze 'auto'", expected="twos-complement, differential or offset",
                            found="'polarized'", hint="give a squeeze depth")  # fmt: skip
        if self.squeeze != "auto" and budgets:
            raise SmecError("a budget without squeeze 'auto'", found="max-crossbars" if self.max_error is None else
                            "max-error", hint="give squeeze 'auto'")  # fmt: skip

    @property
    def rounding(self) -> str:
        """The quantizer of weights."""
        return self.quantizer or ("admm" if self.squeeze == "auto" else "nearest")

    def calibration_text(self) -> str:
        """The pass that calibrates activations."""
        return f"calibrate{{method={self.method}}}"

    def pipeline_text(self) -> str:
        """The default pipeline with these options."""
        return ",".join(
            [
                "partition",
                self.calibration_text(),
                "quantize-activations",
                *(self._auto() if self.squeeze == "auto" else self._uniform()),
                "compact",
                "slice-bits",
                "group-rows",
                # within a budget, tiles may have to share crossbars at the cost of time
                "assign-cores" if self.max_crossbars is None else f"assign-cores{{crossbars={self.max_crossbars}}}",
                "emit",
            ]
        )

    def _uniform(self) -> list[str]:
        shift = self.shift or "leading-one"
        squeeze = [f"squeeze-out{{depth={self.squeeze} shift={shift}}}"] if self.squeeze else []
        weights = (
            f"pattern={_plain(self.pattern)} bits={self.bits} scale={self.scale} sign={self.sign or 'differential'}"
        )
        if self.sign == "polarized":
            weights += f" sign-rows={self.sign_rows}"
        if self.squeeze and knows_squeeze(self.rounding):
            weights += f" squeeze={self.squeeze} shift={shift}"
        return [f"quantize-{self.rounding}{{{weights}}}", "tile", *squeeze]

    def _auto(self) -> list[str]:
        name, value = (
            ("max-error", self.max_error) if self.max_crossbars is None else ("max-crossbars", self.max_crossbars)
        )
        signs = f" signs={self.sign}" if self.sign else ""
        choices = (
            f"patterns={_plain(self.pattern)} bits={self.bits} scales={self.scale}{signs} shift={self.shift or 'fit'}"
        )
        return [
            f"allocate{{{name}={value} {choices}}}",
            f"quantize-{self.rounding}{{squeeze=auto}}",
            "tile",
            "squeeze-out",
        ]


def _plain(text: str) -> str:
    from smec.passes.base import format_value

    return format_value(text)


def quantizers() -> list[str]:
    """Names of the weight quantizers: passes `quantize-NAME`, those of plug-ins included."""
    from smec.passes.base import pass_names

    prefix = "quantize-"
    return [n.removeprefix(prefix) for n in pass_names() if n.startswith(prefix) and n != "quantize-activations"]


def knows_squeeze(quantizer: str) -> bool:
    """Whether a quantizer chooses integers that squeeze-out can represent: it has an option `squeeze`."""
    from smec.passes.base import options, pass_class

    return any(option.name == "squeeze" for option in options(pass_class(f"quantize-{quantizer}")))
