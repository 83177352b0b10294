"""`smec opt`."""

from __future__ import annotations

import sys
from typing import Any

import click

from smec.options import path_argument, plugin_option


@click.command("opt")
@click.argument("module", type=path_argument, metavar="IN.mlir")
@click.option("-p", "--pipeline", default="", metavar="PIPELINE", help="Passes to run, as `a,b{option=1}`.")
@click.option("-o", "--output", type=path_argument, default="-", metavar="OUT.mlir",
              help="The module, arrays beside it in OUT.safetensors; default: text on standard output.")  # fmt: skip
@plugin_option("passes")
@click.option(
    "--target", metavar="NAME|FILE.toml", help="Hardware; default: what the module was compiled for, else sme."
)
@click.option("--act-bits", type=click.IntRange(1, 16), help="Bits of an activation; default: the module's.")
@click.option("--seed", type=int, help="Of every random choice; default: the module's.")
@click.option("--calib", type=path_argument, metavar="DATA.npz", help="Calibration images.")
@click.option("--print-ir-before", multiple=True, metavar="PASS", help="Show the module before a pass.")
@click.option("--print-ir-after", multiple=True, metavar="PASS", help="Show the module after a pass.")
@click.option("--print-ir-after-all", is_flag=True, help="Show the module after every pass.")
@click.option("--print-ir-after-change", is_flag=True, help="Show the module after every pass that changed it.")
@click.option("--time-passes", is_flag=True, help="Show time and memory of each pass.")
@click.option("--verify-each", is_flag=True,
              help="Interpret the module around each pass; name the first that changes the result.")  # fmt: skip
@click.option("--images", type=click.IntRange(1), default=4, show_default=True, help="Images for --verify-each.")
@click.option("--split-input-file", is_flag=True, help="The input holds several modules, parted by lines `// -----`.")
@click.option("--verify-diagnostics", is_flag=True,
              help="Check that errors are those that comments `// expected-error {{...}}` announce.")  # fmt: skip
@click.option("--reproducer", type=path_argument, metavar="FILE", help="What a failing pass leaves behind.")
def opt_command(module: str, output: str, **choices: Any) -> None:
    """Run passes on a module in IR text (- is standard input), or repeat what a reproducer holds."""
    from pathlib import Path

    from smec.cli import check_output
    from smec.ir.errors import SmecError
    from smec.ir.printer import print_module
    from smec.ir.store import save_module
    from smec.opt import Settings, optimize
    from smec.plugins import load_plugin

    if output != "-":
        check_output(output, None if module == "-" else module)
    for plugin in choices["plugins"]:
        load_plugin(plugin)
    try:
        data = sys.stdin.buffer.read() if module == "-" else Path(module).read_bytes()
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise SmecError("not a text in UTF-8", location=module) from None
    except OSError as error:
        raise SmecError(f"module cannot be read: {error.strerror}", location=module) from error
    modules = optimize(text, module, Settings(**choices), lambda line: click.echo(line, err=True))
    if output == "-" or not modules:
        click.echo("// -----\n".join(map(print_module, modules)), nl=False)
    elif len(modules) == 1:
        save_module(modules[0], output)
    else:
        raise SmecError("several modules have no place in one file with arrays", location=output, expected="-o -")
