"""Configuration of Sphinx. Built by `tox -e docs`, where every warning is an error."""

import sys
from pathlib import Path

import lxcwrap

sys.path.insert(0, str(Path(__file__).parent))

project = "lxcwrap"
copyright = "the lxcwrap authors"
version = release = lxcwrap.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docstrings", "notebook_pages"]
default_role = "code"
html_theme = "furo"
html_title = "lxcwrap"
pygments_dark_style = "github-dark"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_js_files = ["scheme.js"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
# What is not ours is not looked up: an inventory of others would make the build depend on the network.
nitpick_ignore_regex = [
    ("py:.*", r"(?!lxcwrap\.).*"),
    ("py:(class|obj)", r"lxcwrap\..*\.([PT]|Named|Shown|Twin|_Awaited)"),
]
