"""Sphinx's configuration of the site, which `make docs` builds from the Markdown files where they lie, and from docstrings."""

import re
import shutil
from collections.abc import Collection
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import click
from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from softlabel_codec import __version__
from softlabel_codec.cli.main import SECTIONS

project = "softlabel_codec"
release = __version__

# The source folder is the repository, so that links between its files hold here as they do where these are read one by one.
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
include_patterns += ["benchmarks/*.md", "docs/**", "examples/README.md", "spec/*.md"]
exclude_patterns = [".*", "build", "demo-output", "softlabel_codec", "spec/vectors", "tests"]  # folders that need not be searched
extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx_click"]
myst_heading_anchors = 4  # as GitHub makes them
smartquotes = False  # which make a dash of the two of an option

add_module_names = False
autodoc_default_options = {"members": True, "imported-members": True}
autodoc_mock_imports = ["ray"]
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # docstrings have types, with shapes and units
default_role = "py:obj"
numpydoc_show_class_members = False
python_maximum_signature_line_length = 200
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "softlabel_codec"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_show_search_summary = False  # which browsers do not let a page from the file system fetch
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
docs/teachers
docs/cluster
docs/codecs
docs/train
docs/temperature
docs/self-supervised
docs/look
docs/convert
docs/prove
docs/share
docs/python
docs/commands
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
benchmarks/READING
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
    """Give the start page, which is the README, the contents of the site, and the page of the command line its commands."""
    if page == root_doc:
        source[0] += "".join(f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n{pages}```\n" for caption, pages in CONTENTS.items())
    if page == "docs/commands":
        for title, commands in SECTIONS.items():
            source[0] += f"\n{title}\n{'-' * len(title)}\n"
            for command in commands:
                where = f"{command.callback.__module__}:{command.callback.__name__}"
                source[0] += f"\n.. click:: {where}\n   :prog: slcodec {command.name}\n"


def options_of(thing: Any) -> list[Field[Any]]:
    """Return the fields of a dataclass of options, whose help stands in their metadata; none of anything else."""
    return [field for field in fields(thing) if "help" in field.metadata] if isinstance(thing, type) and is_dataclass(thing) else []


def describe_options(app: Sphinx, what: str, name: str, thing: Any, how: Any, lines: list[str]) -> None:
    """Add options to the docstring of their class."""
    for number, field in enumerate(options_of(thing)):
        default = "" if field.default in (MISSING, None) else f", default {field.default!r}"
        lines += ["Parameters", "----------"] if number == 0 else []
        lines += [f"{field.name} : {field.type}{default}", f"    {field.metadata['help']}"]


def shorten_signature(app: Sphinx, what: str, name: str, thing: Any, how: Any, signature: str, returned: str) -> tuple[str, str] | None:
    """Name only the options that are required; all are listed below."""
    required = [field.name for field in options_of(thing) if field.default is MISSING and field.default_factory is MISSING]
    return (f"({', '.join([*required, '**options'])})", returned) if options_of(thing) else None


def find_elsewhere(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: Element) -> Element | None:
    """Link the name of a class that the docstring of another package mentions."""
    name = node["reftarget"]
    if node.get("refdomain") != "py" or not name[:1].isupper():
        return None
    python = env.domains.python_domain
    found = sorted((full for full in python.objects if full.endswith(f".{name}")), key=len)
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, text) if found else None


def quote_help(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Keep the text of `--help`, which is no markup, as it is, and say defaults and choices in a sentence."""
    options = {name for option in context.command.params for name in (*option.opts, *option.secondary_opts)}
    lines[:] = [line if line.startswith(".. option::") else re.sub(r"\S.*", lambda text: quoted(text[0], options), line) for line in lines]


def quoted(text: str, options: Collection[str]) -> str:
    """Return a line of help as markup, with the names of the command's options as code."""
    if text.startswith(":default: "):
        return f"Default: {text.removeprefix(':default: ')}.".replace("'", "")
    if text.startswith(":options: "):
        return f"One of {', '.join(f'``{choice}``' for choice in text.removeprefix(':options: ').split(' | '))}."
    required = "**Required** " if text.startswith("**Required** ") else ""
    escaped = re.sub(r"([*`|\\])", r"\\\1", text.removeprefix(required))
    return required + re.sub(r"(?<![\w-])--[a-z][a-z-]*", lambda name: f"``{name[0]}``" if name[0] in options else name[0], escaped)


def add_index(app: Sphinx, error: Exception | None) -> None:
    """Let the site begin where servers and people look for it."""
    if error is None and app.builder.format == "html":
        shutil.copyfile(app.outdir / f"{root_doc}.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", describe_options, priority=400)  # before numpydoc
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("missing-reference", find_elsewhere)
    for part in ("description", "options"):
        app.connect(f"sphinx-click-process-{part}", quote_help)
    app.connect("build-finished", add_index)
