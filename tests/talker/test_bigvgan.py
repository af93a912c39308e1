from __future__ import annotations

import pytest
import torch

from omni.kernels import up_snake_down
from omni.talker.bigvgan import BigVGAN, low_pass
from tests.talker import tiny


@pytest.mark.oracle
@pytest.mark.parametrize("geometry", tiny.GEOMETRIES)
@pytest.mark.parametrize("num_frames", [1, 2, 55])
def test_wave_as_transformers(geometry: str, num_frames: int) -> None:
    mel = -5 + 4 * tiny.noise(geometry, num_frames)
    mel[0, :3] = torch.tensor([-30.0, 9.0, -13.2404])  # below and above the clamps, and about at one
    gan = tiny.vocoder(geometry).code2wav_bigvgan_model
    (ours,) = gan(mel[None])
    theirs = tiny.reference(geometry).code2wav_bigvgan_model(mel.T[None])
    assert ours.shape == (num_frames * gan.config.hop,)
    assert 0.02 < ours.abs().max() < 1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("T", [1, 3, 40])
def test_activation_as_transformers(T: int) -> None:
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
        Qwen2_5OmniAntiAliasedActivation1d,
        Qwen2_5OmniSnakeBeta,
    )

    snake = Qwen2_5OmniSnakeBeta(5).requires_grad_(False)
    snake.alpha.copy_(torch.randn(5))
    snake.beta.copy_(torch.randn(5))
    theirs = Qwen2_5OmniAntiAliasedActivation1d(snake)
    x = torch.randn(2, 5, T)
    assert low_pass().equal(theirs.upsample.filter.flatten())
    torch.testing.assert_close(up_snake_down(x, snake.alpha, snake.beta, low_pass()), theirs(x), rtol=0, atol=2e-6)


def test_low_pass() -> None:
    half = torch.tensor([0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.4432098])
    torch.testing.assert_close(low_pass(), torch.cat((half, half.flip(0))), rtol=0, atol=1e-7)


@pytest.mark.parametrize("geometry", tiny.GEOMETRIES)
def test_context_beyond_twenty_frames_is_not_heard(geometry: str) -> None:
    gan = tiny.vocoder(geometry).code2wav_bigvgan_model
    mel, hop = -5 + 3 * tiny.noise(geometry, 90), gan.config.hop
    (whole,), (part,) = gan(mel[None]), gan(mel[None, 20:70])
    error = (whole[40 * hop : 50 * hop] - part[20 * hop : 30 * hop]).abs().max()
    assert error < 2e-6


def test_rows_are_apart() -> None:
    gan = tiny.vocoder("small").code2wav_bigvgan_model
    mels = -5 + 3 * tiny.noise("small", 24).view(2, 12, -1)
    torch.testing.assert_close(gan(mels)[1], gan(mels[1:])[0], rtol=0, atol=1e-6)


def test_computed_tables_are_real_on_meta() -> None:
    with torch.device("meta"):
        gan = BigVGAN(tiny.SMALL[1])
    assert gan.conv_post.weight.is_meta
    assert gan.taps.equal(low_pass())
