"""What the small model can say is listed beside it."""

from __future__ import annotations

from pathlib import Path

from demos.small_model.assemble import BUNDLED
from demos.small_model.world import spoken
from omni.script.wording import FILE


def test_the_bundled_list_is_the_one_that_is_made(tmp_path: Path) -> None:
    spoken.write(tmp_path)
    assert (tmp_path / FILE).read_text() == (BUNDLED / FILE).read_text()
