"""What compiled code that is kept on disk depends on.

Numba's cache of a function looks at the file that defines it and at what it closes over, not at
the files of the functions it calls. So every function that is cached closes over `SOURCES`, and is
compiled anew when any source of this package changes.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

SOURCES = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()


def compiled(function: Callable[..., None]) -> Any:
    """Compile on first use, in parallel, and keep the code on disk where anything can be written.

    Numba writes next to the source or into the user's cache directory (or ``NUMBA_CACHE_DIR``).
    Where it can do neither, every process compiles anew.
    """
    try:
        return njit(parallel=True, cache=True)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return njit(parallel=True)(function)
