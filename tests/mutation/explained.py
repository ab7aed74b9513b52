"""The survivors that `explained.md` explains."""

from __future__ import annotations

import re
from pathlib import Path

EXPLAINED = Path(__file__).with_name("explained.md")


def explained_mutants() -> set[str]:
    """Return the diffs in `explained.md`, each as `Mutant.diff` gives it."""
    blocks = re.findall(r"^```diff\n(.*?)^```$", EXPLAINED.read_text(), re.DOTALL | re.MULTILINE)
    return {"@@ " + diff.strip() for block in blocks for diff in block.split("@@ ") if diff.strip()}
