"""How Sphinx builds these documents: python -m sphinx -W --keep-going -n docs docs/_build (needs the extra `docs`)."""

from geckosched import __version__

project = "geckosched"
author = "the geckosched authors"
copyright = "the geckosched authors, MIT License"  # noqa: A001 - Sphinx's name
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # links to sections, as [text](page.md#section)
html_theme = "furo"
html_title = f"geckosched {version}"
html_static_path: list[str] = []

default_role = "code"  # docstrings write `name`
autodoc_typehints = "none"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
