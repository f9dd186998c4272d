"""The cache folder, in which prepared data lies."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where prepared data lies: `NANOGROVE_CACHE`, or `nanogrove` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("NANOGROVE_CACHE") or Path(base) / "nanogrove")
