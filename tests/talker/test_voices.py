from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from omni.errors import CheckpointError, VoiceError
from omni.talker.voices import PICKLED, SAFE, Voice, pick, read_voices, write_voices


def spoken(num_frames: int = 6) -> dict[str, Any]:
    return {"bos_token": 7, "cond": torch.randn(1, 9), "ref_mel": torch.randn(1, num_frames, 4)}


def same(a: dict[str, Voice], b: dict[str, Voice]) -> bool:
    return a.keys() == b.keys() and all(
        (v.name, v.bos_id) == (b[k].name, b[k].bos_id) and v.cond.equal(b[k].cond) and v.ref_mel.equal(b[k].ref_mel)
        for k, v in a.items()
    )


def test_read_pickled(tmp_path: Path) -> None:
    stored = {"Ann": spoken(), "Mr. B": spoken(5) | {"bos_token": 8, "cond": torch.randn(1, 9).bfloat16()}}
    torch.save(stored, tmp_path / PICKLED)
    voices = read_voices(tmp_path)
    assert list(voices) == ["Ann", "Mr. B"]
    for name, voice in voices.items():
        assert (voice.name, voice.bos_id) == (name, stored[name]["bos_token"])
        assert voice.cond.equal(stored[name]["cond"][0].float())
        assert voice.ref_mel.equal(stored[name]["ref_mel"][0])
        assert voice.cond.dtype == voice.ref_mel.dtype == torch.float32


def test_write_and_read_safe(tmp_path: Path) -> None:
    torch.save({"Ann": spoken(), "Mr. B": spoken(5)}, tmp_path / PICKLED)
    voices = read_voices(tmp_path)
    assert write_voices(tmp_path, voices) == tmp_path / SAFE
    torch.save({"Another": spoken()}, tmp_path / PICKLED)
    assert same(read_voices(tmp_path), voices)  # the safe file is preferred


def test_pick(tmp_path: Path) -> None:
    torch.save({"Mr. B": spoken(), "Ann": spoken()}, tmp_path / PICKLED)
    voices = read_voices(tmp_path)
    assert pick(voices, "Ann") is voices["Ann"]
    with pytest.raises(VoiceError, match=r"'ann'.*known: Ann, Mr\. B"):
        pick(voices, "ann")
    with pytest.raises(VoiceError, match="known: none"):
        pick({}, "ann")


class Foreign:
    pass


@pytest.mark.parametrize(
    "stored",
    [
        [1, 2],
        {"Ann": 3},
        {"Ann": {"bos_token": 7, "cond": torch.ones(1, 9)}},
        {"Ann": spoken() | {"bos_token": "x"}},
        {"Ann": spoken() | {"cond": torch.ones(())}},
        {"Ann": spoken() | {"ref_mel": torch.ones(1, 6)}},
        {"Ann": spoken() | {"ref_mel": torch.full((1, 6, 4), torch.nan)}},
        {"Ann": Foreign()},
    ],
)
def test_stored_in_another_shape(tmp_path: Path, stored: object) -> None:
    torch.save(stored, tmp_path / PICKLED)
    with pytest.raises(CheckpointError, match=PICKLED):
        read_voices(tmp_path)


@pytest.mark.parametrize("name", [PICKLED, SAFE])
@pytest.mark.parametrize("kept", [0, 0.02, 0.5, 0.98])
def test_cut_file(tmp_path: Path, name: str, kept: float) -> None:
    torch.save({"Ann": spoken()}, tmp_path / PICKLED)
    write_voices(tmp_path, read_voices(tmp_path))
    path = tmp_path / name
    (tmp_path / ({PICKLED, SAFE} - {name}).pop()).unlink()
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        read_voices(tmp_path)


def test_short_reference(tmp_path: Path) -> None:
    torch.save({"Ann": spoken(4)}, tmp_path / PICKLED)
    with pytest.raises(CheckpointError, match="'Ann' has a reference of 4 mel frames"):
        read_voices(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"neither {SAFE} nor {PICKLED}"):
        read_voices(tmp_path)
