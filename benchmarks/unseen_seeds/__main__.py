"""``python -m benchmarks.unseen_seeds``: see `benchmarks.unseen_seeds`."""

import sys

from benchmarks.unseen_seeds import main

if __name__ == "__main__":
    sys.exit(main())
