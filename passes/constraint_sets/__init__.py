"""The built-in constraint sets; see `smec.passes.constraints`."""
