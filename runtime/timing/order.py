"""One order of all instructions that every core's stream and every message agrees with."""

from __future__ import annotations

from collections import deque

import numpy as np

from smec.ir.errors import SmecError
from smec.ir.isa_table import Decoded, decode
from smec.runtime.container import Program


def sequence(program: Program) -> tuple[list[tuple[int, int, Decoded]], dict[int, int]]:
    """Run the streams in turn, each as far as messages let it.

    Returns:
        (core, position in `code`, instruction) of all but `halt`, in the order of execution; and the position of the
        `send` of each `recv`.

    Raises:
        SmecError: the streams deadlock.
    """
    decoded = decode(np.asarray(program.sections["code"]))
    table = program.sections["core_table"].tolist()
    position = [first for first, _ in table]
    sent: dict[tuple[int, int, int], deque[int]] = {}
    order: list[tuple[int, int, Decoded]] = []
    pairs: dict[int, int] = {}
    running = list(range(len(table)))
    while running:
        before = len(order)
        left = []
        for core in running:
            while (step := decoded[position[core]]).mnemonic != "halt":
                operands = step.operands
                if step.mnemonic == "recv":
                    messages = sent.get((operands["src_core"], core, operands["token"]))
                    if not messages:
                        left.append(core)
                        break
                    pairs[position[core]] = messages.popleft()
                elif step.mnemonic == "send":
                    sent.setdefault((core, operands["dst_core"], operands["token"]), deque()).append(position[core])
                order.append((core, position[core], step))
                position[core] += 1
        if left and len(order) == before:
            raise SmecError(
                "deadlock: every running core waits for a message",
                location=program.path,
                expected="a send for each recv",
                found="; ".join(f"core {c}, instruction {position[c]}: {decoded[position[c]]}" for c in left[:4]),
            )
        running = left
    return order, pairs
