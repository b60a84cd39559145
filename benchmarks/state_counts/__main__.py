"""``python -m benchmarks.state_counts``: see `benchmarks.state_counts`."""

import sys

from benchmarks.state_counts import main

if __name__ == "__main__":
    sys.exit(main())
