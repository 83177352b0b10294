"""`python -m smec` is the command `smec`."""

from smec.cli import main

main()
