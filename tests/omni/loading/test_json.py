from __future__ import annotations

from pathlib import Path

import pytest

from omni.errors import CheckpointError
from omni.loading.json import read_json


@pytest.mark.parametrize(("text", "said"), [(None, "cannot be read"), ("{", "not JSON"), ("[1]", "no JSON object")])
def test_a_damaged_file_is_named(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"config\.json.*{said}"):
        read_json(tmp_path / "config.json")
