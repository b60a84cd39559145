"""``python -m benchmarks.hook_overhead``: see `benchmarks.hook_overhead`."""

import sys

from benchmarks.hook_overhead import main

if __name__ == "__main__":
    sys.exit(main())
