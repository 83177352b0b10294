"""Programs as text: `disassemble` and `assemble` are inverse to each other, byte for byte."""

from smec.assembly.assembler import assemble
from smec.assembly.disassembler import disassemble
from smec.assembly.files import load_assembly, save_assembly

__all__ = ["assemble", "disassemble", "load_assembly", "save_assembly"]
