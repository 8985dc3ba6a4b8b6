"""Configuration of Sphinx; CONTRIBUTING.md has the command that builds the pages."""

import importlib.metadata
import re

project = "transfer_gen"
release = version = importlib.metadata.version(project)
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project

# GitHub links to headings by these names.
myst_heading_anchors = 3
# Links to files of the repository, such as ../BUILD_NOTES.md, work on GitHub alone.
suppress_warnings = ["myst.xref_missing"]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Docstrings say what fields mean; a second list of the same fields would repeat it.
napoleon_use_ivar = True
# Docstrings are written like Markdown: `code`, and stars and bars that mean themselves.
default_role = "code"


def _escape(app, what, name, obj, options, lines):
  """Escapes what reStructuredText reads as markup: stars, bars, and `Spec`s."""
  del app, what, name, obj, options
  in_example = False
  for i, line in enumerate(lines):
    in_example = line.strip() != "" and (in_example or line.lstrip().startswith(">>>"))
    if not in_example:
      parts = line.split("`")  # Every second part is code.
      parts[::2] = [re.sub(r"(?<!\\)([*|])", r"\\\1", part) for part in parts[::2]]
      parts[2::2] = [re.sub(r"^(?=\w)", r"\\ ", part) for part in parts[2::2]]
      lines[i] = "`".join(parts)


def setup(app):
  """Connects the escaping behind napoleon, which writes the markup of its own."""
  app.connect("autodoc-process-docstring", _escape, priority=900)
