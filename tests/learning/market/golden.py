"""Expected values, computed apart from this code."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "expected"


def golden(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())
