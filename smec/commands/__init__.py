"""Commands in files of their own; `smec.cli` registers them."""
