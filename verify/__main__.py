"""``python -m verify`` in the checkout, ``tracegrad-verify`` or ``python -m tracegrad.verify`` once installed."""

import sys

from .cli import main as main

if __name__ == "__main__":
    sys.exit(main())
