"""The training programs of the small model: what they learn is what omni runs."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from random import Random

import pytest
import torch
from torch import nn

from demos.small_model import assemble, codec, lessons, nets, questions, senses, shape, words
from demos.small_model.table import text_table
from demos.small_model.trainer import Trainer
from omni.model import LAYOUT, Qwen2_5Omni, build
from omni.prompt import SPEAKING
from omni.thinker import Thinker


@pytest.fixture(scope="module")
def thinker() -> Thinker:
    torch.manual_seed(0)
    config = shape.omni_config().thinker
    made = Thinker(config).requires_grad_(False)
    nets.initialise(made, config.decoder.num_layers)
    return made


@pytest.mark.parametrize("grid", [(16, 16), (12, 18), (6, 34)])
def test_vision_is_the_towers(thinker: Thinker, grid: tuple[int, int]) -> None:
    patches = torch.randn(2, grid[0] * grid[1], 1176)
    whole = thinker.visual(patches.flatten(0, 1), [(1, *grid)] * 2)
    torch.testing.assert_close(nets.vision(thinker.visual, patches, grid)[0].flatten(0, 1), whole, rtol=0, atol=1e-5)


def test_audio_is_the_towers(thinker: Thinker) -> None:
    mels = [torch.randn(80, n) for n in (500, 233, 401, 3)]
    for mine, own in zip(nets.audio(thinker.audio_tower, mels)[0], thinker.audio_tower(mels), strict=True):
        torch.testing.assert_close(mine, own, rtol=0, atol=1e-5)


def test_pictures_are_cut_as_the_reader_cuts_them() -> None:
    frames = torch.randint(0, 256, (1, 2, 56, 84, 3), dtype=torch.uint8)
    cells = senses.patches(frames)[0]
    assert cells.shape == (4 * 6, 3 * 2 * 14 * 14)
    # the first patch of the second cell: rows 0 to 14, columns 28 to 42
    patch = frames[0, :, :14, 28:42].permute(3, 0, 1, 2).float()
    mean, std = (torch.tensor(x).view(3, 1, 1, 1) * 255 for x in (senses.MEAN, senses.STD))
    torch.testing.assert_close(cells[4], ((patch - mean) / std).flatten())


def test_every_word_and_form_is_one_token() -> None:
    for word in words.all_words():
        for form in words.forms(word):
            assert len(words.encode(form)) == 1, form


def test_an_answer_has_a_token_for_each_unit() -> None:
    rng = Random(0)
    for _ in range(500):
        text = questions.spoken_sentence(rng)
        assert len(words.encode(text)) == len(codec_units(text)), text
    assert len(words.encode(SPEAKING)) < 40


def codec_units(text: str) -> list[str]:
    return "".join(c if c.isalpha() else f" {c} " for c in text).split()


def test_forms_of_a_word_share_a_row() -> None:
    table = text_table()
    a, b, c = (table[words.encode(form)[0]] for form in (" circle", "Circle", " Circle"))
    assert torch.equal(a, b)
    assert torch.equal(a, c)
    assert abs(float(table.square().mean().sqrt()) - 1) < 0.05


def test_code_ids_hold_cluster_and_counter() -> None:
    clusters, units = torch.tensor([0, 479, 7]), torch.tensor([0, 16, 20])
    ids = codec.code_ids(clusters, units)
    assert ids.tolist() == [1, 480 * 17, 1 + 7 * 17 + 3]
    assert torch.equal(codec.cluster_of(ids), clusters)


def test_published_names_are_those_of_the_architecture() -> None:
    model = build(shape.omni_config()).to_empty(device="cpu")
    names = set(assemble.published(model.state_dict()))
    wanted = {key for name, _ in Qwen2_5Omni(shape.omni_config()).named_parameters() for key in LAYOUT.keys(name)}
    assert names == {key for key in wanted if not key.endswith("self_attn.k_proj.bias") or "audio_tower" not in key}


def test_lessons_end_where_the_assistant_ends() -> None:
    lesson = lessons.Lesson()
    lesson.start(words.SYSTEM)
    lesson.open()
    lesson.write("What is two plus two?")
    lesson.answer("Two plus two is four.", "talk")
    batch = lessons.collate([lesson])
    learnt = batch.targets[0][batch.targets[0] >= 0].tolist()
    assert words.tokenizer().decode(learnt, skip_special_tokens=False) == "Two plus two is four.<|im_end|>"
    at = int((batch.targets[0] >= 0).nonzero()[0])
    assert batch.ids[0, at + 1 : at + 1 + len(learnt)].tolist() == learnt


def test_training_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    def trainer() -> Trainer:
        torch.manual_seed(0)
        network = nn.Sequential(OrderedDict(first=nn.Linear(2, 2), layers=nn.Sequential(nn.Linear(2, 2))))
        return Trainer(network, tmp_path / "state.pt", minutes=1, rate=0.1, warm_up=1)

    first = trainer()
    for _ in range(3):
        first.learn(first.network(torch.ones(4, 2)).square().mean())
    first.save()
    again = trainer()
    assert again.step == 3
    assert [type(optimiser).__name__ for optimiser in again.optimisers] == ["AdamW", "Muon"]
    assert all(len(optimiser.state) for optimiser in again.optimisers)
    for mine, theirs in zip(again.network.parameters(), first.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert again.elapsed >= first._before
