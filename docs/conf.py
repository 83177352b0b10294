"""How Sphinx builds these pages: `make docs`, with every warning an error."""

from importlib.metadata import version as installed_version
from typing import Any

from pygments.lexers.special import TextLexer

project = "smec"
version = release = installed_version("smec")
copyright = "the smec authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "smec"
html_copy_source = False


def setup(app: Any) -> None:
    """MLIR's text is shown as it is: Pygments knows no lexer for it."""
    app.add_lexer("mlir", TextLexer)
