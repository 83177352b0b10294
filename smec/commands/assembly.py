"""`smec disasm` and `smec asm`."""

from __future__ import annotations

import click

from smec.options import path_argument


@click.command("disasm")
@click.argument("program", type=path_argument, metavar="PROG.smebin")
@click.option("-o", "--output", type=path_argument, required=True, metavar="FILE.smeasm",
              help="The text; long data sections go to FILE.safetensors.")  # fmt: skip
def disasm_command(program: str, output: str) -> None:
    """Write PROG.smebin as assembly text."""
    from smec.assembly import save_assembly
    from smec.cli import check_output
    from smec.program import Program

    check_output(output, program)
    save_assembly(Program.load(program), output)


@click.command("asm")
@click.argument("text", type=path_argument, metavar="FILE.smeasm")
@click.option("-o", "--output", type=path_argument, required=True, metavar="PROG.smebin", help="The program to write.")
def asm_command(text: str, output: str) -> None:
    """Assemble FILE.smeasm to a program: the inverse of disasm, byte for byte."""
    from smec.assembly import load_assembly
    from smec.cli import check_output

    check_output(output, text)
    load_assembly(text).save(output)
