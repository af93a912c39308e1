"""Conversations about the world, ready for the thinker: ids, positions, what it sees and hears, and what it should say."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random

import numpy as np
import torch
from torch import Tensor

from demos.small_model.nets import senses, sizes, words
from demos.small_model.speech import voices
from demos.small_model.speech.corpus import VOICES
from demos.small_model.training import looking, towers
from demos.small_model.world import draw, questions, scenes, sounds
from omni.encoders.audio import num_audio_tokens
from omni.families.qwen2_5_omni import SPEAKING
from omni.prompt.positions import AudioSpan, AudioVideoSpan, Clock, ImageSpan, Span, TextSpan, VideoSpan
from omni.prompt.prompt import fill

ALL = "Say all you see."
LISTED = 0.7
"""Part of the pictures and clips that are told in full first: of few words each, answers teach slowly where things are."""
REPEAT = ("Repeat what I said.", "What did I say?", "Write down what I said.")
SPLICED = 0.5
"""Part of what is to be repeated that begins as one sentence and ends as another."""
OWN = 0.4
"""Part of what is said in the voices of the model, see `own_voice`; without, it takes its own words for unknown ones."""
OTHERWISE = (
    (re.compile(r"How many (.+) are there\?"), ("How many {} do you see?", "How many {} can you see?", "Count the {}.")),
    (re.compile(r"How many shapes are (.+)\?"), ("How many {} shapes do you see?", "Count the {} shapes.")),
    (re.compile(r"What color is (the .+)\?"), ("Which color is {}?", "Tell me what color {} is.")),
    (re.compile(r"What shape is (.+)\?"), ("Which shape is {}?", "Tell me which shape is {}.")),
    (re.compile(r"Where is (.+)\?"), ("Tell me where {} is.", "Where do you see {}?")),
    (re.compile(r"Is there (.+)\?"), ("Can you see {}?", "Is there {} in the picture?")),
    (re.compile(r"When does (.+)\?"), ("At what second does {}?",)),
)
"""Other ways to type a question; a model that knows one way to ask trips over another."""


def changes(shown: scenes.Scene | scenes.Clip, size: tuple[int, int]) -> Tensor:
    """What is new in each cell against the second before, `[seconds cells, 3]`, frames of (height, width).

    1 where something has appeared, 2 where it was and has gone, 0 for neither; its shape and color. Of a picture, UNASKED.
    """
    rows, columns = size[0] // senses.CELL, size[1] // senses.CELL
    if isinstance(shown, scenes.Scene):
        return torch.full((rows * columns, 3), looking.UNASKED)
    out = torch.full((shown.seconds, rows, columns, 3), looking.UNASKED)
    out[1:, ..., 0] = 0
    for second in range(1, shown.seconds):
        for before, now in zip(*(draw.placed_at(shown, second + half) for half in (-0.5, 0.5)), strict=True):
            thing = now or before
            if thing is None:
                continue
            named = (1 + scenes.SHAPES.index(thing.shape), 1 + scenes.COLOURS.index(thing.colour))
            if before is None or now is None:
                out[second][looking.cell_of(thing, rows, columns)] = torch.tensor((1 if now else 2, *named))
            elif (left := looking.cell_of(before, rows, columns)) != looking.cell_of(now, rows, columns):
                out[second][left][0] = looking.UNASKED
    return out.view(-1, 3)


@dataclass
class Lesson:
    """One conversation while it is written.

    Attributes:
        spans: the prompt so far; text not in a span yet is in `text`.
        spoken: (first token, ids, kind) of each answer; looks: where to look while its tokens are found; asked: what its
            question names, see `looking`.
        pictures: uint8 `[2 t, h, w, 3]` each, frames in pairs; heard: sounds; both in prompt order.
        changes: `[cells, 3]` of each picture, see `changes`; marks: of its rows, see `looking`.
    """

    spans: list[Span] = field(default_factory=list)
    text: list[int] = field(default_factory=list)
    length: int = 0
    spoken: list[tuple[int, list[int], str]] = field(default_factory=list)
    pictures: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)
    marks: list[Tensor] = field(default_factory=list)
    looks: list[looking.Looks] = field(default_factory=list)
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    heard: list[senses.Heard] = field(default_factory=list)

    def write(self, text: str) -> None:
        self._put(words.encode(text))

    def mark(self, name: str) -> None:
        self._put([words.special(name)])

    def _put(self, ids: Sequence[int]) -> None:
        self.text += ids
        self.length += len(ids)

    def _close(self, span: Span) -> None:
        self.spans += [TextSpan(tuple(self.text)), span]
        self.text = []
        self.length += span.num_tokens

    def start(self, system: str) -> None:
        self.mark("<|im_start|>")
        self.write(f"system\n{system}")
        self.mark("<|im_end|>")

    def open(self) -> None:
        """The user's turn begins."""
        self.write("\n")
        self.mark("<|im_start|>")
        self.write("user\n")

    def show(self, frames: Tensor, shown: scenes.Scene | scenes.Clip, sound: senses.Heard | None = None) -> None:
        """A picture, or a clip as two frames a grid and with its sound; a lesson has one."""
        n, h, w, _ = frames.shape
        cells = (n // 2, h // senses.CELL, w // senses.CELL)
        self.pictures.append(frames)
        still = isinstance(shown, scenes.Scene)
        self.changes.append(changes(shown, (h, w)))
        self.marks.append(looking.marks_of(shown, (h, w)))
        if sound is not None:
            self.heard.append(sound)
            self._close(AudioVideoSpan(VideoSpan(cells, 1.0), AudioSpan(num_audio_tokens(sound.mel.shape[1]))))
            return
        self.mark("<|vision_bos|>")
        self._close(ImageSpan(cells) if still else VideoSpan(cells, 1.0))
        self.mark("<|vision_eos|>")

    def play(self, heard: senses.Heard) -> None:
        self.heard.append(heard)
        self.mark("<|audio_bos|>")
        self._close(AudioSpan(num_audio_tokens(heard.mel.shape[1])))
        self.mark("<|audio_eos|>")

    def answer(self, text: str, kind: str, looks: looking.Looks | None = None, question: str | None = None) -> None:
        """The user's turn ends and the assistant's is written; `question`: what is to be understood of it."""
        self.mark("<|im_end|>")
        self.write("\n")
        self.mark("<|im_start|>")
        self.write("assistant\n")
        ids = [*words.encode(text), words.special("<|im_end|>")]
        self.spoken.append((self.length, ids, kind))
        self.looks.append(looks or [])
        self.asked.append((looking.UNASKED,) * 3 if question is None else looking.asked(question))
        self._put(ids)


@dataclass(frozen=True)
class Run:
    """Rows `first` to `last` of a lesson's `index`-th sound, or picture."""

    is_sound: bool
    index: int
    first: int
    last: int


@dataclass(frozen=True)
class Batch:
    """Lessons side by side, filled up at their ends.

    Attributes:
        ids, targets: int64 `[B, T]`; targets are -100 but where the next token is the assistant's to say.
        positions: `[3, B, T]`.
        pictures: uint8 `[N, 2, h, w, 3]`, all temporal grids of all lessons in order; None without.
        heard: sounds of all lessons in order.
        runs: of all lessons in order, with the lesson's index.
        grids: temporal grids of each picture in order.
        changes: `[cells, 3]` of each lesson's pictures.
        answers: (row, first target, count, kind) of each answer.
        marks: of all rows, int64 `[B, T]`.
        looks: (row, target, marks) where it matters which rows are looked at.
        asked: what the question names, at each token of an answer, int64 `[B, T, 3]`.
    """

    ids: Tensor
    targets: Tensor
    positions: Tensor
    pictures: Tensor | None
    heard: list[senses.Heard]
    runs: list[tuple[int, Run]]
    grids: list[list[int]]
    changes: list[list[Tensor]]
    sounds: list[int]
    answers: list[tuple[int, int, int, str]]
    marks: Tensor
    looks: list[tuple[int, int, list[int]]]
    asked: Tensor


def _media_of(span: Span) -> list[bool]:
    """Of each medium of a span, whether it is a sound."""
    match span:
        case TextSpan():
            return []
        case AudioVideoSpan():
            return [False, True]
        case _:
            return [isinstance(span, AudioSpan)]


def collate(lessons: Sequence[Lesson]) -> Batch:
    media = sizes.omni_config().thinker.media
    assert media
    rows, answers, runs, looks = [], [], [], []
    for i, lesson in enumerate(lessons):
        spans = [*lesson.spans, TextSpan(tuple(lesson.text))]
        clock = Clock(media.positions_per_second, media.positions_per_second * media.seconds_per_chunk)
        prompt = fill(spans, media, clock, ())
        are_sounds = [is_sound for span in spans for is_sound in _media_of(span)]
        of_lesson = [
            Run(are_sounds[r.index], are_sounds[: r.index].count(are_sounds[r.index]), r.first, r.last) for r in prompt.runs
        ]
        assert prompt.num_tokens == lesson.length
        targets = torch.full((prompt.num_tokens,), -100)
        asked = torch.full((prompt.num_tokens, 3), looking.UNASKED)
        for (first, ids, kind), wanted, named in zip(lesson.spoken, lesson.looks, lesson.asked, strict=True):
            targets[first - 1 : first - 1 + len(ids)] = torch.tensor(ids)
            asked[first - 1 : first - 1 + len(ids)] = torch.tensor(named)
            answers.append((i, first - 1, len(ids), kind))
            looks += [(i, first - 1 + k, marks) for k, marks in enumerate(wanted) if marks]
        marks = torch.full((prompt.num_tokens,), looking.NO_MARK)
        if prompt.runs:
            of_sounds = [
                looking.marks_of_sound(h.units, num_audio_tokens(h.mel.shape[1]), towers.ROW, k)
                for k, h in enumerate(lesson.heard)
            ]
            is_media = torch.isin(prompt.ids, torch.tensor((media.audio, media.image, media.video)))
            of_runs = [(of_sounds if run.is_sound else lesson.marks)[run.index][run.first : run.last] for run in of_lesson]
            marks[is_media] = torch.cat(of_runs)
            if lesson.pictures:
                marks[prompt.ids == words.special("<|vision_eos|>")] = looking.mark(0, 0, looking.NOTHING)
        rows.append((prompt.ids, targets, prompt.positions.T, marks, asked))
        runs += [(i, run) for run in of_lesson]
    pad = torch.nn.utils.rnn.pad_sequence
    frames = [frames.unflatten(0, (-1, 2)) for lesson in lessons for frames in lesson.pictures]
    return Batch(
        pad([r[0] for r in rows], True, words.special("<|endoftext|>")),
        pad([r[1] for r in rows], True, -100),
        pad([r[2] for r in rows], True, 0).permute(2, 0, 1),
        torch.cat(frames) if frames else None,
        [heard for lesson in lessons for heard in lesson.heard],
        runs,
        [[len(f) // 2 for f in lesson.pictures] for lesson in lessons],
        [lesson.changes for lesson in lessons],
        [len(lesson.heard) for lesson in lessons],
        answers,
        pad([r[3] for r in rows], True, looking.NO_MARK),
        looks,
        pad([r[4] for r in rows], True, looking.UNASKED),
    )


class Teacher:
    """Makes lessons; the questions it can ask aloud are those that some voice has spoken."""

    def __init__(self, spoken: Sequence[voices.Utterance], split: str = "train") -> None:
        self.split = split
        self.spoken = sorted(spoken, key=lambda u: len(u["wave"]))
        self.by_text: dict[str, list[voices.Utterance]] = {}
        self.own = [u for u in spoken if u["voice"] in VOICES]
        self.by_voice: dict[str, list[voices.Utterance]] = {}
        for utterance in self.spoken:
            if utterance["kind"] != "outside":
                self.by_voice.setdefault(utterance["voice"].split()[0], []).append(utterance)
            if utterance["kind"] != "words":
                self.by_text.setdefault(utterance["text"], []).append(utterance)
        self.chat = dict(questions.TALK)

    def voice(self, utterance: voices.Utterance, rng: Random) -> senses.Heard:
        return voices.soiled(utterance, rng, again=self.split == "train")

    def ask(
        self,
        lesson: Lesson,
        turn: questions.Turn,
        kind: str,
        aloud: bool,
        rng: Random,
        looks: looking.Looks | None = None,
    ) -> bool:
        """Ask, aloud if someone can say it, and answer; whether it was aloud."""
        utterances = self.by_text.get(turn.question, []) if aloud else []
        if utterances:
            lesson.play(self.voice(rng.choice(utterances), rng))
        else:
            lesson.write(_casual(turn.question, rng))
        lesson.answer(turn.answer, kind + ("/aloud" if utterances else ""), looks, None if looks is None else turn.question)
        return bool(utterances)

    def scenes(self, rng: Random, count: int, turns: int, aloud: float) -> list[Lesson]:
        """Lessons about pictures of one size."""
        canvas = scenes.canvas(rng)
        size = senses.picture_size(*canvas)
        out = []
        for _ in range(count):
            scene = senses.on_canvas(scenes.scene(rng), canvas)
            lesson = Lesson()
            lesson.start(_system(rng))
            asked = questions.scene_turns(scene, rng, turns)
            if rng.random() < 0.5:
                asked = questions.scene_dialogue(scene, rng) + asked[2:]
            if aloud and rng.random() < 0.8:
                asked = [t for t in asked if t.question in self.by_text] or asked
                asked = asked[:2]
            if rng.random() < LISTED:
                asked.insert(0, questions.Turn(ALL, everything(scene)))
            kind = "text" if scene.text else "scene"
            for i, turn in enumerate(asked):
                lesson.open()
                if i == 0:
                    lesson.show(torch.from_numpy(np.stack([senses.see(scene, size, rng)] * 2)), scene)
                if turn.question == ALL:
                    looks = looking.at_list(turn.answer, [[looking.mark(0, 0, i)] for i in range(len(scene.things))])
                else:
                    looks = looking.at_scene(scene, turn)
                self.ask(lesson, turn, "all" if turn.question == ALL else kind, rng.random() < aloud, rng, looks)
            out.append(lesson)
        return [l for l in out if l.spoken]

    def clips(self, rng: Random, count: int, turns: int, aloud: float) -> list[Lesson]:
        first = scenes.clip(rng)
        size = senses.frame_size(first.width, first.height)
        out = []
        for _ in range(count):
            clip = replace(scenes.clip(rng), width=first.width, height=first.height)
            lesson = Lesson()
            lesson.start(_system(rng))
            frames = torch.from_numpy(senses.watch(clip, size, rng))
            sound = None
            if clip.beep >= 0 or rng.random() < 0.15:
                wave, units = sounds.beep_track(clip, rng)
                sound = senses.Heard(senses.mel(wave), units)
            # when something happens is what is hardest to learn
            asked = questions.clip_turns(clip, rng, 3, time=True) + questions.clip_turns(clip, rng, turns - 2, time=False)
            rng.shuffle(asked)
            if aloud:
                asked = ([t for t in asked if t.question in self.by_text] or asked)[:2]
            if rng.random() < LISTED:
                asked.insert(0, questions.Turn(ALL, each_second(clip)[0]))
            for i, turn in enumerate(asked):
                lesson.open()
                if i == 0:
                    lesson.show(frames, clip, sound)
                kind = "time" if turn.question.startswith("When") else "seconds" if turn.question == ALL else "clip"
                looks = looking.at_list(*each_second(clip)) if turn.question == ALL else looking.at_clip(clip, turn)
                self.ask(lesson, turn, kind, rng.random() < aloud, rng, looks)
            out.append(lesson)
        return out

    def hearing(self, rng: Random, count: int) -> list[Lesson]:
        """Say again what was said, or answer it; or tell what sound it was."""
        start = rng.randrange(max(1, len(self.spoken) - 20 * count))
        near = self.spoken[start : start + 20 * count]
        if rng.random() < 0.5:  # words in no order must be heard, where sentences can be guessed
            near = [utterance for utterance in near if utterance["kind"] == "words"]
        out = []
        for utterance in rng.sample(near, min(count, len(near))):
            if self.own and rng.random() < OWN:
                utterance = rng.choice(self.own)
            lesson = Lesson()
            lesson.start(_system(rng))
            lesson.open()
            kind = rng.random()
            if kind < 0.15:
                sound = scenes.sound(rng)
                lesson.play(towers.sound_heard(sound, rng))
                for i, turn in enumerate(questions.sound_turns(sound, rng, 2)):
                    if i:
                        lesson.open()
                    self.ask(lesson, turn, "sound", False, rng)
                out.append(lesson)
                continue
            if kind >= 0.4 and utterance["kind"] != "outside" and rng.random() < SPLICED:
                other = rng.choice(self.by_voice[utterance["voice"].split()[0]])
                utterance = voices.spliced(utterance, other, rng) or utterance
            heard = self.voice(utterance, rng)
            answer = self.reply(utterance)
            if answer is not None and kind < 0.4:
                lesson.play(heard)
                lesson.answer(answer, "outside/aloud" if utterance["kind"] == "outside" else "talk/aloud")
            elif utterance["kind"] == "outside":
                lesson.play(heard)
                lesson.answer(questions.UNKNOWN, "outside/aloud")
            else:
                if rng.random() < 0.8:
                    lesson.play(heard)
                    lesson.write(rng.choice(REPEAT))
                else:
                    lesson.write(rng.choice(REPEAT))
                    lesson.play(heard)
                lesson.answer(utterance["text"], "repeat", looking.at_words(heard.units, utterance["text"], 0))
            out.append(lesson)
        return out

    def reply(self, utterance: voices.Utterance) -> str | None:
        """The answer to something said with nothing to see; None if it has none."""
        text = utterance["text"]
        if utterance["kind"] == "outside":
            return questions.UNKNOWN
        return _alone(text)

    def talk(self, rng: Random, count: int, turns: int) -> list[Lesson]:
        out = []
        for _ in range(count):
            lesson = Lesson()
            lesson.start(_system(rng))
            for _ in range(turns):
                lesson.open()
                if rng.random() < 0.15:
                    turn, kind = questions.outside_turn(rng, voices.strangers(self.split)), "outside"
                else:
                    turn, kind = questions.talk_turn(rng), "talk"
                lesson.write(_casual(turn.question, rng))
                lesson.answer(turn.answer, kind)
            out.append(lesson)
        return out


def everything(scene: scenes.Scene) -> str:
    """What is in a picture and where, in reading order; of what is written, each sign."""
    if scene.text:
        return ",".join(scene.text) + "."
    return questions.sentence(", ".join(f"{t.name} {scenes.PLACES[t.cell]}" for t in scene.things) or "nothing")


def each_second(clip: scenes.Clip) -> tuple[str, list[list[int]]]:
    """What is to be seen and heard in each second of a clip, and where; and the marks of each item."""
    told, marks = [], list[list[int]]()
    for second in range(clip.seconds):
        seen = []
        for i, thing in enumerate(draw.placed_at(clip, second + 0.5)):
            if thing is not None:
                cell = min(2, int(thing.y)) * 3 + min(2, int(thing.x))
                seen.append((cell, f"{thing.name} {scenes.PLACES[cell]}", looking.mark(0, second, i)))
        seen.sort()
        names = [name for _, name, _ in seen] + ["beep"] * (second == clip.beep)
        marks += [[], *([mark] for _, _, mark in seen), *[[]] * (second == clip.beep)] + [[]] * (not names)
        told.append(f"{questions.number(second)}: {', '.join(names) or 'nothing'}.")
    return questions.sentence(" ".join(told)), marks


@cache
def _answers() -> dict[str, str]:
    """Every question of a talk without a picture, with its answer."""
    known = dict(questions.TALK)
    rng = Random(7)
    for _ in range(20000):
        turn = questions.talk_turn(rng)
        if not turn.question.startswith("Say "):
            known.setdefault(turn.question, turn.answer)
    return known


def _alone(text: str) -> str | None:
    if text.startswith("Say "):
        return questions.sentence(text[4:-1])
    return _answers().get(text)


def _casual(question: str, rng: Random) -> str:
    """As people type it: sometimes in other words, without capital or full stop."""
    for pattern, ways in OTHERWISE:
        if (found := pattern.fullmatch(question)) and rng.random() < 0.4:
            other = rng.choice(ways).format(found[1])
            question = question if questions.held_out(other) else other
            break
    if rng.random() < 0.15:
        question = question[0].lower() + question[1:]
    return question.rstrip(".?!") if rng.random() < 0.1 else question


def _system(rng: Random) -> str:
    return words.SYSTEM if rng.random() < 0.75 else SPEAKING


Maker = Callable[[Random], list[Lesson]]
