"""This folder's own modules within reach of its tests."""

from __future__ import annotations

import sys
from pathlib import Path

# pytest imports test modules one by one (importlib mode), so what they share must be importable by itself.
sys.path.insert(0, str(Path(__file__).parent))
