"""Configuration of Sphinx. Built by `tox -e docs`, where every warning is an error."""

import lxcwrap

project = "lxcwrap"
copyright = "the lxcwrap authors"
version = release = lxcwrap.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "code"
html_theme = "furo"
exclude_patterns = ["_build"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
# What is not ours is not looked up: an inventory of others would make the build depend on the network.
nitpick_ignore_regex = [("py:.*", r"(?!lxcwrap\.).*"), ("py:(class|obj)", r"lxcwrap\..*\.([PT]|Named|Shown|Twin|_Awaited)")]
