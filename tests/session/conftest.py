"""The independent comparer stands with the end-to-end tests; the session tests use it too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "e2e"))
