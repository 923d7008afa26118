"""Triton says at the first use what it will do otherwise in a later version, unless it is told."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
