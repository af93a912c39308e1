"""Log-mel against WhisperFeatureExtractor and librosa, and the live form against the whole one."""

from __future__ import annotations

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from omni.encoders.config import MelConfig
from omni.encoders.features import num_audio_tokens
from omni.encoders.mel import LiveMel, filter_bank, log_mel
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


def pieces(mel: LiveMel, wave: Wave, sizes: list[int]) -> tuple[Tensor, list[int]]:
    """The live frames of a wave cut into pieces of these sizes, over and over, and how many came at a time."""
    state, out, at, i = mel.start(), [], 0, 0
    while at < len(wave):
        out.append(mel.step(state, wave[at : at + sizes[i % len(sizes)]]))
        at, i = at + sizes[i % len(sizes)], i + 1
    out.append(mel.finish(state))
    return torch.cat(out, 1), [x.shape[1] for x in out]


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


def test_num_audio_tokens_by_hand() -> None:
    counts = {1: 0, 2: 0, 3: 1, 4: 1, 5: 1, 6: 1, 7: 2, 8: 2, 100: 25, 200: 50, 431: 108, 30000: 7500}
    assert {f: num_audio_tokens(f) for f in counts} == counts


@pytest.mark.parametrize("seconds", [0.03, 1.9999, 2.0, 2.0025, 2.01, 7.77])
def test_live_does_not_depend_on_the_split(seconds: float) -> None:
    mel, wave = LiveMel(CONFIG), speech_like(8, seed=3)[8000 : 8000 + round(seconds * 16000)]
    whole, counts = pieces(mel, wave, [len(wave)])
    assert whole.shape[1] == -(-len(wave) // 160)
    assert all(c % 200 == 0 for c in counts[:-1])
    for sizes in ([1, 31_999, 40], [320], [160, 7, 50_000], [32_040], [32_039, 1]):
        got, counts = pieces(mel, wave, sizes)
        assert torch.equal(got, whole)
        assert all(c % 200 == 0 for c in counts[:-1])


def test_live_gives_a_block_as_soon_as_it_can() -> None:
    mel, wave = LiveMel(CONFIG), speech_like(3)
    state = mel.start()
    assert mel.step(state, wave[:32_039]).shape == (128, 0)  # the last frame's window ends 200 samples after its centre
    assert mel.step(state, wave[32_039:32_040]).shape == (128, 200)


def test_live_of_one_block_is_exact() -> None:
    wave = speech_like(1.97)
    assert torch.equal(pieces(LiveMel(CONFIG), wave, [700])[0], log_mel(wave, CONFIG).mel)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("whisper", "most", "mean"),
    [
        (1.0, 0.15, 0.005),  # speech of even loudness: 0.009 to 0.13 at most, 0.0005 to 0.003 on average were seen
        (0.02, 1.0, 0.15),  # 4 s at -34 dB before it, so off by up to 3.4 decades / 4: 0.82 to 0.87, and 0.10
    ],
)
def test_live_differs_from_whole_below_the_floor_only(seed: int, whisper: float, most: float, mean: float) -> None:
    """Clamped once more at the final floor the live frames are the whole ones; until then quiet bins are too low."""
    wave = np.concatenate([whisper * speech_like(4, seed=seed), speech_like(11, seed=seed + 9)]).astype(np.float32)
    live, whole = pieces(LiveMel(CONFIG), wave, [640])[0], log_mel(wave, CONFIG).mel
    torch.testing.assert_close(live.maximum(whole.max() - 2), whole, atol=NEAR, rtol=0)  # 8 decades, divided by 4
    error = whole - live
    assert error.min() > -NEAR
    assert error.max() < most
    assert error.mean() < mean
    # once the loudest bin has been heard nothing is off
    assert error[:, int(live.max(0).values.argmax()) :].max() < NEAR
