"""The training programs of the small model: what they learn is what omni runs."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from demos.small_model import assemble
from demos.small_model.nets import nets, shape, words
from demos.small_model.nets.table import text_table
from demos.small_model.nets.talker_net import TalkerNet
from demos.small_model.speech import codec, corpus, voices
from demos.small_model.training import lessons, senses, train_dit, train_thinker
from demos.small_model.training.train_towers import index_of
from demos.small_model.training.trainer import Trainer
from demos.small_model.world import looking, questions
from demos.small_model.world.world import SHAPES, Actor, Clip, Scene, Thing
from omni.families.qwen2_5_omni import LAYOUT, Qwen2_5Omni, build
from omni.models.thinker import Thinker
from omni.prompt.reader import SPEAKING


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


RED, BLUE = Thing("red", "circle", 0, 0.5, 0.5, 0.5), Thing("blue", "ring", 8, 2.5, 2.4, 0.5)
PICTURE = Scene(84, 84, "white", (RED, BLUE))
CLIP = Clip(84, 84, "white", 3, (Actor(RED, shown=1), Actor(BLUE, hidden=2, direction="up", begin=1, speed=0.2)))


@pytest.mark.parametrize(
    ("asked", "answer", "about"),
    [
        ("Where is the blue ring?", "It is at the bottom right.", [1]),
        ("What is at the top left?", "A red circle.", [0]),
        ("How many shapes are there?", "There are two shapes.", [0, 1]),
        ("How many rings are there?", "There is one ring.", [1]),
        ("And the red one?", "It is at the top left.", [0]),
        ("Is the red circle above the blue ring?", "Yes, it is.", [0, 1]),
        ("Where is the red ring?", "There is no red ring.", [looking.NOTHING]),
        ("Describe the picture.", "I see a red circle and a blue ring.", []),
    ],
)
def test_what_an_answer_about_a_picture_is_about(asked: str, answer: str, about: list[int]) -> None:
    looks = looking.at_scene(PICTURE, questions.Turn(asked, answer))
    assert len(looks) == len(words.encode(answer))
    assert all(marks == [looking.mark(0, 0, i) for i in about] for marks in looks)


@pytest.mark.parametrize(
    ("asked", "answer", "about"),
    [
        ("When does the red circle appear?", "At second one.", [(1, 0)]),
        ("When does the blue ring disappear?", "At second two.", [(2, 1)]),
        ("What happens first?", "The red circle appears.", [(1, 0)]),
        ("Which way does it move?", "It moves up.", [(0, 1), (1, 1), (2, 1)]),
        ("How long is the video?", "It is three seconds long.", []),
    ],
)
def test_what_an_answer_about_a_clip_is_about(asked: str, answer: str, about: list[tuple[int, int]]) -> None:
    looks = looking.at_clip(CLIP, questions.Turn(asked, answer))
    assert looks[0] == [looking.mark(0, second, i) for second, i in about]


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("Where is the green ring?", (2, 8, 0)),
        ("What is in the middle?", (0, 0, 5)),
        ("How many crosses are there?", (0, 6, 0)),
        ("Is the red star above the red heart?", (1, looking.UNASKED, 0)),
        ("When does it start to move?", (0, 0, 0)),
    ],
)
def test_what_a_question_names(question: str, named: tuple[int, int, int]) -> None:
    assert looking.asked(question) == named


def test_rows_have_marks_where_things_are() -> None:
    marks = looking.marks_of(CLIP, (84, 84)).view(3, 3, 3)
    assert [int((second >= 0).sum()) for second in marks] == [1, 2, 2]
    assert marks[1, 0, 0] == looking.mark(0, 1, 0)
    sound = looking.marks_of_sound([("a", 0.05, 0.1), ("b", 0.2, 0.29)], 10, 0.04, 2)
    first, second = (looking.mark(looking.FIRST_SOUND + 2, 0, k) for k in (0, 1))
    assert sound.tolist() == [-1, first, -1, -1, -1, second, second, -1, -1, -1]


def test_a_list_is_looked_up_item_by_item() -> None:
    text, items = lessons.each_second(CLIP)
    assert (
        text == "Zero: blue ring bottom right. one: red circle top left, blue ring bottom right. two: red circle top left."
    )
    looks = looking.at_list(text, items)
    tokens = [words.tokenizer().decode([i]).strip() for i in words.encode(text)]
    seconds = [(t, m[0] // looking.MOST_MARKS) for t, m in zip(tokens, looks, strict=True) if m and t in ("red", "blue")]
    assert seconds == [("blue", 0), ("red", 1), ("blue", 1), ("red", 2)]


def test_rows_know_where_and_when() -> None:
    lesson = lessons.Lesson()
    lesson.start(words.SYSTEM)
    lesson.open()
    lesson.show(torch.zeros(6, 84, 84, 3, dtype=torch.uint8), CLIP)
    lesson.answer("Nothing.", "clip")
    lesson.open()
    lesson.play(senses.Heard(torch.zeros(80, 80), [("red", 0.1, 0.3), ("ring", 0.3, 0.7)]))
    lesson.answer("Nothing.", "talk")
    batch = lessons.collate([lesson])
    columns = {name: fact.tolist() for name, fact in train_thinker.facts(batch).items()}
    assert {len(column) for column in columns.values()} == {3 * 9 + 20}
    assert columns["second"][:27] == [k // 9 for k in range(27)]
    assert columns["place"][9:18] == list(range(9))
    assert columns["change"][:27] == [looking.UNASKED] * 9 + [1] + [0] * 16 + [2]
    assert columns["shape"][26] == 1 + SHAPES.index("ring")
    assert columns["count"][27:] == [0] * 2 + [1] * 6 + [2] * 12
    before = columns["before"][27:]
    assert before[9] == index_of("red")
    assert before[3] == 0


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


def utterance(phones: list[tuple[str, float]], seconds: float) -> corpus.Utterance:
    return corpus.Utterance(text="", voice="Ethan", mel=torch.randn(int(100 * seconds), 80).half(), units=[], phones=phones)


def test_no_code_is_of_another_phone() -> None:
    known = codec.kept()
    spoken = utterance([("pau", 0.11), ("f", 0.25), ("ay", 0.5), ("v", 0.6)], 0.8)
    phone, passed = codec.phone_indices(spoken, known["names"])
    names = [known["names"][i] for i in phone]
    assert names == ["pau"] * 5 + ["f"] * 7 + ["ay"] * 13 + ["v"] * 5 + ["pau"] * 10
    assert passed[5:12].diff().gt(0).all()
    assert torch.equal(known["phones"][codec.clusters_of(spoken, known)], phone)
    near = codec.neighbours(known, 4)
    assert (known["phones"][near] == known["phones"][:, None]).float().mean() > 0.99


def test_the_voice_goes_on_from_what_shipped() -> None:
    config = shape.omni_config()
    assert config.talker
    assert config.talker_decoder
    shipped = load_file(assemble.BUNDLED / "model.safetensors")
    talker, decoder = (
        {key.removeprefix(prefix): w.float() for key, w in shipped.items() if key.startswith(prefix)}
        for prefix in ("talker.", "token2wav.code2wav_dit_model.")
    )
    net = TalkerNet(config.talker, config.talker_decoder)
    net.take(talker)
    again = net.published()
    assert again.keys() == talker.keys()
    for name, weight in talker.items():
        rows = slice(1, 1 + codec.CLUSTERS * codec.COUNTER) if name == "codec_head.weight" else slice(None)
        torch.testing.assert_close(again[name][rows], weight[rows], rtol=2**-10, atol=1e-3)  # float16 sums
    released = train_dit.released(train_dit.taken(decoder))
    assert all(torch.equal(released[name], weight) for name, weight in decoder.items())


def test_spliced_speech_is_two_halves() -> None:
    def speech(text: str, first: float) -> voices.Utterance:
        units = [(word, first + 0.3 * i, first + 0.3 * i + 0.2) for i, word in enumerate(text.rstrip(".?").split())]
        wave = np.full(int(16000 * (units[-1][2] + 0.1)), len(text), np.int16)
        return voices.Utterance(text=text, kind="words", voice="flite:slt", wave=wave, units=units)

    one, two = speech("Where is the star?", 0.1), speech("We see a cold bird.", 0.2)
    texts = set()
    for seed in range(20):
        made = voices.spliced(one, two, Random(seed))
        if made is None:  # kept from training
            continue
        texts.add(made["text"])
        words_said = [word for word, _, _ in made["units"]]
        assert made["text"] == " ".join(words_said) + "."
        assert all(a[2] <= b[1] + 1e-9 for a, b in pairwise(made["units"]))
        assert made["units"][-1][2] < len(made["wave"]) / 16000
        cut = int(np.flatnonzero(made["wave"] != len(one["text"]))[0]) / 16000
        first = sum(end <= cut + 1e-3 for _, _, end in made["units"])
        last = len(words_said) - first
        assert words_said == one["text"].rstrip("?").split()[:first] + two["text"].rstrip(".").split()[-last:]
    assert len(texts) > 3
    assert voices.spliced(speech("Hello.", 0.1), two, Random(0)) is None
