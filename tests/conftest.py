"""Makes `runs.py` importable for the tests in all folders."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
