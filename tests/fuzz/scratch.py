"""Where targets keep the files that they have read."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def scratch_folder() -> Path:
    """Return a folder of this process that is gone when it ends."""
    folder = tempfile.mkdtemp(prefix="slc-fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
