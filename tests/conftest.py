from __future__ import annotations

import sys
from pathlib import Path

import pytest

from perdure.base import faults

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture(autouse=True)
def _no_crash_point_survives_its_test():
    yield
    faults.disarm()
