"""`smec compare` and `smec schemes`."""

from __future__ import annotations

from typing import Any

import click

from smec.options import (
    act_bits_option,
    engine_option,
    json_option,
    method_option,
    path_argument,
    plugin_option,
    shape_option,
)

#: Every scheme that is built in, the baseline first.
ALL_SCHEMES = "dense-16,dense-8,dense-4,row-skip,prune,bit-slice,sme-published,sme"


@click.command("compare")
@click.argument("model", type=path_argument, metavar="MODEL.onnx")
@click.option("--schemes", default=ALL_SCHEMES, show_default=True, metavar="A,B{option=1},C",
              help="Schemes to compare (`smec schemes` lists them).")  # fmt: skip
@click.option("--baseline", metavar="SCHEME", help="Denominator of the ratios; default: the first scheme.")
@click.option("--target", default="sme", show_default=True, metavar="NAME|FILE.toml", help="Hardware to compile for.")
@click.option("--calib", type=path_argument, metavar="DATA.npz", help="Calibration images; default: synthetic ones.")
@click.option("--input", "inputs", type=path_argument, metavar="DATA.npz",
              help="Inputs, and `labels` for accuracy; default: a sample of the calibration.")  # fmt: skip
@click.option("--images", type=click.IntRange(1), metavar="N", help="Use at most so many inputs.")
@click.option("--crossbars", type=click.IntRange(1), metavar="N",
              help="Budget for copies of slow layers; default: what the largest scheme needs.")  # fmt: skip
@act_bits_option
@method_option
@engine_option
@plugin_option("schemes")
@shape_option
@click.option("--seed", type=int, default=0, show_default=True, help="Of every random choice.")
@click.option("--markdown", "markdown_path", type=path_argument, metavar="FILE.md", help="Write the table as Markdown.")
@json_option
def compare_command(
    model: str, schemes: str, markdown_path: str | None, json_path: str | None, **settings: Any
) -> None:
    """Compile MODEL.onnx by several schemes and set their programs' figures side by side."""
    from smec.cli import check_outputs, emit
    from smec.comparison import compare
    from smec.comparison_table import markdown
    from smec.files import write_whole
    from smec.report import terminal_progress

    check_outputs((json_path, markdown_path), model)
    with terminal_progress() as progress:
        document = compare(model, schemes, progress=progress, **settings)
    if markdown_path is not None:
        write_whole(markdown_path, markdown(document))
    emit("compare", document, json_path)


@click.command("schemes")
@click.argument("name", required=False)
@plugin_option("schemes")
@json_option
def schemes_command(name: str | None, plugins: tuple[str, ...], json_path: str | None) -> None:
    """List the schemes, or the options and the passes of one."""
    from smec.cli import emit
    from smec.documents import schemes_document
    from smec.plugins import load_plugin

    for plugin in plugins:
        load_plugin(plugin)
    emit("schemes", schemes_document(name), json_path)
