"""Sphinx's configuration of the site, which `make docs` builds from the Markdown files where they lie, and from docstrings."""

import shutil
from dataclasses import fields, is_dataclass
from typing import Any

from sphinx.application import Sphinx

from softlabel_codec import __version__

project = "softlabel_codec"
release = __version__

# The source folder is the repository, so that links between its files hold here as they do where these are read one by one.
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
include_patterns += ["benchmarks/*.md", "docs/**", "examples/README.md", "spec/*.md"]
exclude_patterns = [".*", "build", "demo-output", "softlabel_codec", "spec/vectors", "tests"]  # folders that need not be searched
extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
myst_heading_anchors = 4  # as GitHub makes them

add_module_names = False
autodoc_default_options = {"members": True, "imported-members": True}
autodoc_mock_imports = ["ray"]
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # docstrings have types, with shapes and units
default_role = "py:obj"
numpydoc_show_class_members = False
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "softlabel_codec"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
FONTS = {
    "font-stack": 'system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif',
    "font-stack--monospace": 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace',
}


def colours(paper: str, card: str, ink: str, soft: str, line: str, accent: str) -> dict[str, str]:
    """Return Furo's variables of the colours that pages of `slcodec show` have."""
    used = {
        card: ["background-primary"],
        paper: ["background-secondary", "code-background", "inline-code-background", "api-background", "admonition-background"],
        ink: ["foreground-primary", "sidebar-brand-text", "sidebar-link-text", "sidebar-link-text--top-level"],
        soft: ["foreground-secondary", "foreground-muted", "api-pre-name", "api-paren", "api-keyword"],
        line: ["background-border", "table-border", "background-hover"],
        accent: ["brand-primary", "brand-content", "brand-visited", "api-name"],
    }
    return FONTS | {f"color-{name}": colour for colour, names in used.items() for name in names}


html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": colours("#f6f5f2", "#ffffff", "#1d1d1f", "#6b6a67", "#e2e0da", "#2563c9"),
    "dark_css_variables": colours("#1e1e21", "#141416", "#ececee", "#9c9ba0", "#323236", "#7aa7ff"),
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"

CONTENTS = {
    "How to": """
docs/label
docs/cluster
docs/codecs
docs/train
docs/temperature
docs/look
docs/convert
docs/prove
docs/share
docs/python
Scripts to copy from <examples/README>
""",
    "Python": """
docs/api/softlabel_codec
torch <docs/api/torch>
teacher <docs/api/teacher>
formats <docs/api/formats>
copying <docs/api/copying>
report <docs/api/report>
show <docs/api/show>
storage <docs/api/storage>
images <docs/api/images>
trainer <docs/api/trainer>
students <docs/api/students>
evaluate <docs/api/evaluate>
compare <docs/api/compare>
label_maps <docs/api/label_maps>
ray <docs/api/ray>
""",
    "Format": """
docs/format
Container <spec/container-v1>
Sparse labels <spec/sparse-v1>
Dense labels <spec/dense-v1>
Label fields <spec/field-v1>
Label sets <spec/set-v1>
Crop samplers <spec/crop-sampler-v1>
spec/conformance-v1
""",
    "Measured": """
benchmarks/REPORT
benchmarks/FRONTIER
benchmarks/RELIABILITY
benchmarks/MANY
benchmarks/AT_SCALE
""",
    "Project": """
CONTRIBUTING
SECURITY
CHANGELOG
""",
}
"""The pages in their order. One that is not listed is an error."""


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Give the start page, which is the README, the contents of the site."""
    if page == root_doc:
        source[0] += "".join(f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n{pages}```\n" for caption, pages in CONTENTS.items())


def add_options(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Describe the fields of dataclasses of options, whose help stands in their metadata."""
    described = [field for field in fields(thing) if "help" in field.metadata] if what == "class" and is_dataclass(thing) else []
    if described:
        lines += ["Parameters", "----------"]
    for field in described:
        lines += [f"{field.name} : {field.type}", f"    {field.metadata['help']}"]


def add_index(app: Sphinx, error: Exception | None) -> None:
    """Let the site begin where servers and people look for it."""
    if error is None and app.builder.format == "html":
        shutil.copyfile(app.outdir / f"{root_doc}.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", add_options, priority=400)  # before numpydoc
    app.connect("build-finished", add_index)
