"""The dialects: nn, quant, xbar, isa."""
