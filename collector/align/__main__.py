"""`python -m collector.align` is `align-model`."""

from __future__ import annotations

import sys

from collector.align.cli import main

if __name__ == "__main__":
    sys.exit(main())
