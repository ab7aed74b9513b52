"""The layout: which module may import what, and which names are public."""

import ast
import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import softlabel_codec
from softlabel_codec import errors

PACKAGE = Path(softlabel_codec.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in PACKAGE.rglob("*.py")
}

IMPORTED_ANYWHERE = [name for name in MODULES if not name.startswith("softlabel_codec.ray") and not name.endswith("__main__")]
"""Modules that need no package besides those that the tests are run with; see `test_many_ray.py` for the others."""

# From the bottom to the top: a module imports only from lower layers, or from its own.
LAYERS = [
    ["errors", "version"],
    ["checks", "padding", "sampler", "views"],
    ["codec"],
    ["labels", "image_source"],
    ["quantise"],
    ["block"],
    ["crops"],
    ["storage"],
    ["container"],
    ["label_set"],
    ["reader", "writer"],
    ["copying"],
    ["choosing"],
    [""],
    ["images"],
    ["options"],
    ["report"],
    ["show"],
    ["torch"],
    ["students"],
    ["teacher"],
    ["ray"],
    ["formats"],
    ["label_maps"],
    ["evaluate"],
    ["trainer"],
    ["compare"],
    ["cli.output", "cli.tables"],
    ["demo"],
    ["cli"],
    ["__main__", "teacher.__main__", "trainer.__main__"],
]
READ_WITH_TORCH = {f"formats.{name}" for name in ("torch_files", "sre2l", "mobileclip_dr", "relabel")}
ALLOWED = {
    "zstandard": {"container.zstd_frames"},
    "msgpack": {"container.msgpack_maps"},
    "PIL": {
        *("images", "image_source", "show.pictures", "demo", "teacher.batches", "trainer.fresh"),
        *("torch.cropper", "torch.dataset", "torch.device", "torch.pixels", "torch.stream"),
    },
    "torch": {"torch", "teacher", "students", "evaluate", "trainer", "compare", "label_maps", "demo", "cli.encode", *READ_WITH_TORCH},
    "fsspec": {"storage.clients"},
    "aiohttp": {"storage.web"},
    "botocore": {"storage.s3"},
    "pyarrow": {"images.sources.tables", "formats.parquet", "ray"},
    "safetensors": {"formats.safetensors"},
    "ray": {"ray"},
    "jinja2": {"show.rendering"},
    "click": {"cli", "demo"},
    "rich": {"cli.output"},
    "tqdm": {"cli.output"},
    "matplotlib": {"report.stats_report", "demo", "compare.outcome"},
    "scipy": {"compare.outcome"},
    "skimage": {"demo"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def layer(module: str) -> int:
    """Return the layer of a module, by the longest name that fits."""
    name = module.removeprefix("softlabel_codec").removeprefix(".")
    fitting = [
        (len(listed), level)
        for level, names in enumerate(LAYERS)
        for listed in names
        if name == listed or (listed and name.startswith(listed + "."))
    ]
    assert fitting, f"{module} is in no layer: name its layer in {Path(__file__).name}"
    return max(fitting)[1]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_import_only_from_lower_layers(module):
    for imported in imports(MODULES[module]):
        if imported.startswith("softlabel_codec"):
            assert layer(imported) <= layer(module), f"{module} imports {imported}"


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_third_party_packages_are_imported_where_that_is_allowed(package):
    for module, path in MODULES.items():
        name = module.removeprefix("softlabel_codec").removeprefix(".")
        if any(imported.split(".")[0] == package for imported in imports(path)):
            assert any(name == allowed or name.startswith(allowed + ".") for allowed in ALLOWED[package]), f"{module} imports {package}"


def test_the_base_never_imports_torch():
    names = "softlabel_codec, softlabel_codec.report, softlabel_codec.cli.main"
    code = f"import sys, {names}; print([name for name in ('torch', 'PIL', 'rich') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.torch
def test_public_names():
    assert softlabel_codec.__all__ == sorted(
        softlabel_codec.__all__, key=lambda name: (name.islower() and name[0] != "_", name == "__version__", name)
    )
    for name in softlabel_codec.__all__:
        assert getattr(softlabel_codec, name) is not None
    assert set(softlabel_codec.__all__) >= {"SoftLabelWriter", "SoftLabelReader", "SoftLabelError"}
    from softlabel_codec import torch as torch_side

    assert set(torch_side.__all__) >= {"SoftLabelDataset", "collate_crops", "soft_cross_entropy"}


@pytest.mark.torch
@pytest.mark.parametrize("module", sorted(name for name in IMPORTED_ANYWHERE if "." in name))
def test_no_function_hides_a_module(module):
    imported = importlib.import_module(module)
    package, _, name = module.rpartition(".")
    assert getattr(importlib.import_module(package), name) is imported


ERRORS = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)]


@pytest.mark.parametrize("error", ERRORS)
def test_errors_are_one_tree_and_survive_pickling(error):
    assert issubclass(error, errors.SoftLabelError)
    copy = pickle.loads(pickle.dumps(error("what happened")))
    assert (type(copy), str(copy)) == (error, "what happened")
    assert getattr(softlabel_codec, error.__name__) is error


def test_the_tree_of_errors_is_drawn_as_it_is():
    drawn = {line.lstrip(" |`-").partition(" ")[0]: line for line in (errors.__doc__ or "").splitlines() if "Error" in line}
    for error in ERRORS:
        depth = sum(issubclass(parent, errors.SoftLabelError) for parent in error.mro()) - 1
        assert drawn[error.__name__].index(error.__name__) == 4 * (1 + depth), error


@pytest.mark.torch
def test_every_public_function_says_what_it_does():
    for module in IMPORTED_ANYWHERE:
        for name, thing in vars(importlib.import_module(module)).items():
            if not name.startswith("_") and getattr(thing, "__module__", "") == module and callable(thing):
                assert thing.__doc__, f"{module}.{name}"
