"""Trains the small model that ships with the package, from data that these programs make themselves."""

import os
from pathlib import Path

BUILD = Path(os.environ.get("SMALL_MODEL_BUILD") or Path(__file__).parents[2] / "runs" / "small_model")
"""Where data, logs and training states lie."""
