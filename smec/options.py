"""Options that several commands have. (`smec.cli` and `smec.commands` import this; it imports nothing heavy.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

#: Choices that are known without importing what implements them.
METHODS = ("min-max", "percentile", "mse")
ENGINES = ("auto", "exact", "adc")

path_argument = click.Path(path_type=str)

Command = Callable[..., Any]


def parse_shapes(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """NAME=1x3x224x224, any number of times."""
    shapes = {}
    for value in values:
        name, _equals, shape = value.rpartition("=")
        try:
            extents = tuple(int(extent) for extent in shape.split("x"))
        except ValueError:
            extents = ()
        if not name or not extents or min(extents) < 1:
            raise click.BadParameter(f"{value!r} is not a name and a shape, as in image=1x3x224x224")
        shapes[name] = extents
    return shapes


def parse_depth(_: click.Context, __: click.Parameter, value: str) -> int | str:
    """A squeeze depth: 0 to 15, or `auto`."""
    if value == "auto":
        return value
    if not value.isdecimal() or int(value) > 15:
        raise click.BadParameter(f"{value!r} is not 0 to 15, or auto")
    return int(value)


def json_option(command: Command) -> Command:
    """The option `--json`."""
    return click.option(
        "--json",
        "json_path",
        type=path_argument,
        metavar="FILE",
        help="Write the result as JSON; - is standard output.",
    )(command)


def plugin_option(registers: str) -> Callable[[Command], Command]:
    """The option `--plugin`, as `plugins`; `registers`: what is wanted of them."""
    return click.option(
        "--plugin", "plugins", type=path_argument, multiple=True, metavar="FILE.py", help=f"Registers {registers}."
    )


def method_option(command: Command) -> Command:
    """The option `--method`."""
    help_text = "Activation calibration."
    return click.option("--method", type=click.Choice(METHODS), default="mse", show_default=True, help=help_text)(
        command
    )


def engine_option(command: Command) -> Command:
    """The option `--engine`."""
    help_text = "How crossbars are computed."
    return click.option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True, help=help_text)(
        command
    )


def act_bits_option(command: Command) -> Command:
    """The option `--act-bits`."""
    help_text = "Bits of an activation."
    kind = click.IntRange(1, 16)
    return click.option("--act-bits", type=kind, default=8, show_default=True, help=help_text)(command)


def shape_option(command: Command) -> Command:
    """The option `--input-shape`, as `input_shapes`."""
    return click.option(
        "--input-shape",
        "input_shapes",
        callback=parse_shapes,
        multiple=True,
        metavar="NAME=1x3x224x224",
        help="Shape of an input whose extents the model leaves open.",
    )(command)
