"""The client is a distribution of its own: its tests find it by its folder."""

import sys
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "client"
if str(CLIENT) not in sys.path:
    sys.path.insert(0, str(CLIENT))
