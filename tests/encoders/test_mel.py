"""Log-mel against WhisperFeatureExtractor and librosa, and sounds that come in pieces against whole ones."""

from __future__ import annotations

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import torch

from omni.encoders.config import MelConfig
from omni.encoders.mel import LogMel, MelState, filter_bank, log_mel
from omni.errors import MediaError, MediaLimitError
from tests.encoders.samples import speech_like

Wave = npt.NDArray[np.float32]
CONFIG = MelConfig(sampling_rate=16000, n_fft=400, hop_length=160, feature_size=128, chunk_length=300)
FULL = CONFIG.chunk_length * CONFIG.sampling_rate
# float32 sums may run in another order where transformers multiplies 30 000 columns and we fewer; 1.2e-7 was seen
NEAR = 1e-6


def loud_at_the_end(samples: int) -> Wave:
    """Faint noise whose last 30 samples are loud: the maximum lies in a frame after the last valid one."""
    wave = (1e-4 * np.random.default_rng(1).standard_normal(samples)).astype(np.float32)
    wave[-30:] = 0.9
    return wave


WAVES = {
    "speech": speech_like(4.3),
    "odd": speech_like(2.7)[:41_237],
    "a frame": speech_like(1)[: 160 * 67],
    "a sample more": speech_like(1)[: 160 * 67 + 1],
    "shorter than half a window": speech_like(1)[4000:4330],
    "least": speech_like(1)[4000:4321],
    "silence": np.zeros(8000, np.float32),
    "loud": 30 * speech_like(1),
    "loud at the end": loud_at_the_end(160 * 50 + 30),
    "loud in the last hop": loud_at_the_end(160 * 50),
}


def fed(mel: LogMel, wave: Wave, sizes: list[int]) -> MelState:
    """What a wave is that comes in pieces of these sizes, over and over."""
    state, at, i = mel.start(), 0, 0
    while at < len(wave):
        mel.step(state, wave[at : at + sizes[i % len(sizes)]])
        at, i = at + sizes[i % len(sizes)], i + 1
    return state


@pytest.mark.oracle
@pytest.mark.parametrize("name", WAVES)
def test_log_mel_is_whispers(name: str) -> None:
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300, return_attention_mask=True)
    wave = WAVES[name]
    want = extractor(wave, sampling_rate=16000, return_attention_mask=True, padding="max_length")
    mel = log_mel(wave, CONFIG).mel
    assert mel.dtype == torch.float32
    assert mel.shape == (128, int(want["attention_mask"].sum()))
    torch.testing.assert_close(mel, torch.from_numpy(want["input_features"][0][:, : mel.shape[1]]), atol=NEAR, rtol=0)


@pytest.mark.oracle
@pytest.mark.parametrize("missing", [0, 1, 159, 161, 250, 321])
def test_log_mel_to_the_last_sample(missing: int) -> None:
    """At the very end of the 300 s the original mirrors the padded wave instead of following it with zeros."""
    from transformers import WhisperFeatureExtractor

    wave = np.tile(speech_like(30), 10)[: FULL - missing]
    wave[-500:] += 0.3
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    want = torch.from_numpy(extractor(wave, sampling_rate=16000)["input_features"][0])
    mel = log_mel(wave, CONFIG).mel
    assert mel.shape[1] == -(-len(wave) // 160)
    torch.testing.assert_close(mel[:, -5:], want[:, mel.shape[1] - 5 : mel.shape[1]], atol=NEAR, rtol=0)


@pytest.mark.parametrize(
    ("rate", "n_fft", "bins", "top"),
    [(16000, 400, 128, 8000), (16000, 400, 80, 8000), (24000, 1024, 100, 12000), (24000, 1024, 80, 8000)],
)
def test_filter_bank_is_librosas(rate: int, n_fft: int, bins: int, top: int) -> None:
    want = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=bins, fmax=top)
    got = filter_bank(bins, n_fft, rate, top)
    # both round float64 to float32 once
    np.testing.assert_allclose(got.numpy(), want, atol=1e-9, rtol=2e-7)


def test_log_mel_of_silence() -> None:
    assert (log_mel(np.zeros(16000, np.float32), CONFIG).mel == -1.5).all()


def test_log_mel_has_limits() -> None:
    with pytest.raises(MediaLimitError, match=r"300\.0 s.*300 s"):
        log_mel(np.zeros(FULL + 1, np.float32), CONFIG)
    for samples in (0, 1, 320):
        with pytest.raises(MediaError, match="over 20 ms"):
            log_mel(np.zeros(samples, np.float32), CONFIG)
    assert log_mel(np.zeros(321, np.float32), CONFIG).mel.shape == (128, 3)


@pytest.mark.parametrize("seconds", [0.03, 1.9999, 2.0, 2.0025, 2.01, 7.77])
@pytest.mark.parametrize("block", [200, 37])
def test_pieces_are_the_whole_bit_for_bit(seconds: float, block: int) -> None:
    mel, wave = LogMel(CONFIG, block), speech_like(8, seed=3)[8000 : 8000 + round(seconds * 16000)]
    whole = log_mel(wave, CONFIG, block)
    assert whole.num_frames == -(-len(wave) // 160)
    for sizes in ([1, 31_999, 40], [320], [160, 7, 50_000], [32_040], [32_039, 1]):
        assert torch.equal(mel.finish(fed(mel, wave, sizes)).mel, whole.mel)


@pytest.mark.parametrize("missing", [0, 1, 161, 321])
def test_pieces_to_the_last_sample(missing: int) -> None:
    """Blocks that do not divide the longest sound, which the original mirrors at its end."""
    wave = np.tile(speech_like(30), 10)[: FULL - missing]
    wave[-500:] += 0.3
    mel = LogMel(CONFIG, 777)
    torch.testing.assert_close(mel.finish(fed(mel, wave, [50_001])).mel, log_mel(wave, CONFIG).mel, atol=NEAR, rtol=0)


def test_a_block_comes_as_soon_as_it_can() -> None:
    mel, wave = LogMel(CONFIG), speech_like(3)
    state = mel.start()
    mel.step(state, wave[:32_039])
    assert not mel.blocks(state)  # the last frame's window ends 200 samples after its centre
    mel.step(state, wave[32_039:32_040])
    assert [block.num_frames for block in mel.blocks(state)] == [200]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("whisper", [1.0, 0.02])
def test_only_louder_sound_changes_what_has_come_and_only_below_the_floor(seed: int, whisper: float) -> None:
    """4 s of speech, once at -34 dB, before more: blocks so far, clamped again at the final floor, are the whole's."""
    wave = np.concatenate([whisper * speech_like(4, seed=seed), speech_like(11, seed=seed + 9)]).astype(np.float32)
    mel, whole = LogMel(CONFIG), log_mel(wave, CONFIG)
    state, before = mel.start(), list[torch.Tensor]()
    kept, floor = mel.blocks(state), state.floor
    for at in range(0, len(wave), 4000):
        mel.step(state, wave[at : at + 4000])
        standing = min(state.num_standing, len(kept))
        blocks = mel.blocks(state)
        assert all(a is b for a, b in zip(kept[:standing], blocks, strict=False))
        if standing < len(kept):
            assert state.floor > floor
            assert not torch.equal(kept[standing].mel, blocks[standing].mel)
        kept, floor = blocks, state.floor
        assert state.num_standing == len(kept)
        before.append(torch.cat([block.mel for block in kept], 1) if kept else whole.mel[:, :0])
    for heard in before:
        final = whole.mel[:, : heard.shape[1]]
        torch.testing.assert_close(heard.maximum(whole.mel.max() - 2), final, atol=NEAR, rtol=0)  # 8 decades, divided by 4
        assert (heard <= final).all()
    # once the loudest bin has been heard nothing changes
    loudest = int(whole.mel.max(0).values.argmax())
    for heard in (heard for heard in before if heard.shape[1] > loudest):
        assert torch.equal(heard, whole.mel[:, : heard.shape[1]])


def test_what_lies_above_the_floor_stands() -> None:
    """Noise has no bin 8 decades below its loudest, however loud it becomes."""
    noise = np.random.default_rng(0).standard_normal(16000 * 8).astype(np.float32)
    mel = LogMel(CONFIG)
    state = fed(mel, noise * np.linspace(0.2, 0.3, len(noise), dtype=np.float32), [8000])
    first = mel.blocks(state)
    mel.step(state, noise)
    assert state.peak > first[0].mel.max() * 4 - 4
    assert all(a is b for a, b in zip(first, mel.blocks(state), strict=False))
