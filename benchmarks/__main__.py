"""``python -m benchmarks`` is ``python -m benchmarks.reproduce``."""

from __future__ import annotations

import sys

from benchmarks.reproduce import main

if __name__ == "__main__":
    sys.exit(main())
