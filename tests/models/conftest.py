"""The scripts of models/ are no package: tests import them by their names, as the scripts do themselves."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "models"))
