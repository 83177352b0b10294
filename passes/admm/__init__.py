"""Layer-wise quantization that minimises the error of each layer's output; see `docs/admm.md`."""
