"""`python -m kvfrontier.runners.gpu_suite`."""

from __future__ import annotations

import sys

from kvfrontier.runners.gpu_suite.command import main

if __name__ == "__main__":
    sys.exit(main())
