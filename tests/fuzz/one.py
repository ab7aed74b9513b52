"""One target in this process, driven by libFuzzer; `run.py` starts it. Needs atheris.

usage: python -m fuzz.one TARGET [options of libFuzzer] [folders of inputs]
"""

from __future__ import annotations

import importlib
import sys
import warnings

import atheris


def main() -> None:
    """Import the package instrumented, limit the memory, and let libFuzzer go."""
    name, options = sys.argv[1], sys.argv[2:]
    with atheris.instrument_imports(include=["softlabel_codec"]):
        targets = importlib.import_module("fuzz.targets")
        if name == "fkd":
            importlib.import_module("fuzz.fkd_files")
        if name == "imports":
            files = importlib.import_module("fuzz.import_files")
            for data in files.first_inputs()[: len(files.FORMATS) * len(files.CODECS)]:
                files.read(data)  # what is imported and made once is no cost of an input
    warnings.simplefilter("error")
    limit_memory, target = importlib.import_module("fuzz.limits").limit_memory, targets.TARGETS[name]

    def run_one(data: bytes) -> None:
        limit_memory()
        target(data)

    again = f"{sys.executable} -m fuzz.one {name}"  # to merge, libFuzzer starts itself
    atheris.Setup([again, *options], run_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
