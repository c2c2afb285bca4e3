"""``python -m tracegrad`` is the command ``tracegrad``."""

from tracegrad.cli import main

raise SystemExit(main())
