"""``python -m benchmarks.calibration``: see `benchmarks.calibration`."""

import sys

from benchmarks.calibration import main

if __name__ == "__main__":
    sys.exit(main())
