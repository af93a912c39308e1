"""What one can ask about the small world, each question with the one answer that counts as right; and all its words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from demos.small_model.world.scenes import COLOURS, PHRASES, READABLE, SHAPES, Actor, Clip, Scene, Sound, clip, scene, sound

_MORE = (
    "monday tuesday wednesday thursday friday saturday sunday today tomorrow yesterday now later week month year day "
    "mother father sister brother friend child people man woman boy girl baby he she we they us his her our big "
    "little long short new good bad hot cold warm run walk jump eat drink sleep sing play talk listen look wait come "
    "give take make want need have will would could should with without from into over under near far away back again "
    "maybe sometimes all some every game story song school city street garden river sea mountain sky summer winter "
    "spring coffee tea egg fruit table chair window clock phone computer picture story world time place thing "
    "question about because but if then so very just really great nice sorry fun easy hard fast slow left right hey "
    "wow"
)
MORE = tuple(_MORE.split())
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
ONES = tuple(_ONES.split())
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
UNKNOWN = "I do not know."
NO_PICTURE = "I see no picture."


@dataclass(frozen=True)
class Turn:
    question: str
    answer: str


def number(n: int) -> str:
    """0 to 100 in words, without hyphens."""
    if n < 20:
        return ONES[n]
    if n == 100:
        return "one hundred"
    return TENS[n // 10 - 2] + (f" {ONES[n % 10]}" if n % 10 else "")


def sentence(text: str) -> str:
    """With a capital, and a full stop where nothing else ends it."""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def held_out(text: str) -> bool:
    """One sentence in ten is kept from training, by its own letters."""
    return hashlib.sha256(text.lower().encode()).digest()[0] < 26


def a(thing: str) -> str:
    return ("an " if thing[0] in "aeiou" else "a ") + thing


def _count(n: int, one: str, many: str) -> str:
    if n == 0:
        return f"There are no {many}."
    return f"There is one {one}." if n == 1 else f"There are {number(n)} {many}."


def scene_turns(s: Scene, rng: Random, how_many: int) -> list[Turn]:
    """Different questions about a scene."""
    turns: dict[str, Turn] = {}
    for _ in range(20 * how_many):
        turn = _scene_turn(s, rng)
        if turn is not None:
            turns.setdefault(turn.question, turn)
        if len(turns) == how_many:
            break
    return list(turns.values())


def describe(s: Scene) -> str:
    if s.text:
        return f"I see the {'number ' + number(int(s.text)) if s.text.isdigit() else 'word ' + s.text}."
    if not s.things:
        return "I see nothing."
    if len(s.things) > 3:
        return f"I see {number(len(s.things))} shapes."
    names = [a(t.name) for t in s.things]
    return "I see " + (names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]) + "."


def _scene_turn(s: Scene, rng: Random) -> Turn | None:
    pick = rng.choice
    if s.text:
        if rng.random() < 0.1:
            return Turn(pick(("What do you see?", "Describe the picture.")), describe(s))
        if rng.random() < 0.15:
            return Turn(pick(("What color is it?", "What color is the text?")), f"It is {s.ink}.")
        if s.text.isdigit():
            asked = pick(("What number is this?", "What number do you see?", "Read the number."))
            return Turn(asked, f"It is {number(int(s.text))}.")
        return Turn(pick(("What word is this?", "Read the word.", "What does it say?")), f"It says {s.text}.")
    colour = pick([t.colour for t in s.things] * 3 + list(COLOURS[:8]))
    shape = pick([t.shape for t in s.things] * 3 + list(SHAPES))
    both = [t for t in s.things if (t.colour, t.shape) == (colour, shape)]
    kind = rng.randrange(12)
    if kind == 0:
        asked = pick(("How many shapes are there?", "How many shapes do you see?", "Count the shapes."))
        return Turn(asked, _count(len(s.things), "shape", "shapes"))
    if kind == 1:
        n = sum(t.shape == shape for t in s.things)
        return Turn(
            pick((f"How many {plural(shape)} are there?", f"Count the {plural(shape)}.")), _count(n, shape, plural(shape))
        )
    if kind == 2:
        n = sum(t.colour == colour for t in s.things)
        asked = pick((f"How many {colour} shapes are there?", f"How many shapes are {colour}?"))
        return Turn(asked, _count(n, f"{colour} shape", f"{colour} shapes"))
    if kind == 3:
        name = f"{colour} {shape}"
        return Turn(f"How many {plural(name)} are there?", _count(len(both), name, plural(name)))
    if kind in (4, 5):
        return color_of(s, pick([t.shape for t in s.things] or [shape]) if rng.random() < 0.9 else shape)
    if kind == 6:
        return shape_of(s, pick([t.colour for t in s.things] or [colour]) if rng.random() < 0.9 else colour)
    if kind in (7, 8):
        thing = pick(s.things) if s.things and rng.random() < 0.9 else None
        return where(s, thing.colour if thing else colour, thing.shape if thing else shape)
    if kind == 9:
        asked = pick((f"Is there {a(f'{colour} {shape}')}?", f"Do you see {a(f'{colour} {shape}')}?"))
        return Turn(asked, "Yes, there is." if both else "No, there is not.")
    if kind == 10:
        cell = pick([t.cell for t in s.things] * 2 + list(range(9)))
        at = [t for t in s.things if t.cell == cell]
        return Turn(f"What is {PHRASES[cell]}?", sentence(a(at[0].name)) if at else "Nothing.")
    if rng.random() < 0.4 or len(s.things) < 2:
        return Turn(pick(("What do you see?", "Describe the picture.", "What is in the picture?")), describe(s))
    return compare(s, rng)


def plural(name: str) -> str:
    return name + ("es" if name.endswith("s") else "s")


def color_of(s: Scene, shape: str) -> Turn | None:
    """None where it is not clear which one is meant."""
    found = {t.colour for t in s.things if t.shape == shape}
    if len(found) > 1:
        return None
    asked = f"What color is the {shape}?"
    return Turn(asked, f"The {shape} is {found.pop()}." if found else f"There is no {shape}.")


def shape_of(s: Scene, colour: str) -> Turn | None:
    found = {t.shape for t in s.things if t.colour == colour}
    if len(found) > 1:
        return None
    return Turn(f"What shape is {colour}?", f"The {found.pop()} is {colour}." if found else f"Nothing is {colour}.")


def where(s: Scene, colour: str, shape: str) -> Turn | None:
    found = [t for t in s.things if (t.colour, t.shape) == (colour, shape)]
    if len(found) > 1:
        return None
    asked = f"Where is the {colour} {shape}?"
    return Turn(asked, f"It is {PHRASES[found[0].cell]}." if found else f"There is no {colour} {shape}.")


def compare(s: Scene, rng: Random) -> Turn | None:
    one, two = rng.sample(s.things, 2)
    if [t.name for t in s.things].count(one.name) > 1 or [t.name for t in s.things].count(two.name) > 1:
        return None
    rows, columns = one.cell // 3 - two.cell // 3, one.cell % 3 - two.cell % 3
    word, value = rng.choice([("above", -rows), ("below", rows), ("left of", -columns), ("right of", columns)])
    if value == 0:
        return None
    return Turn(f"Is the {one.name} {word} the {two.name}?", "Yes, it is." if value > 0 else "No, it is not.")


def scene_dialogue(s: Scene, rng: Random) -> list[Turn]:
    """A question and what follows from it ("And the red one?"); empty where the scene has nothing for it."""
    kind = rng.randrange(4)
    first: Turn | None
    then: Turn | None
    if kind == 0 and len({t.shape for t in s.things}) > 1:
        first, then = (color_of(s, shape) for shape in rng.sample(sorted({t.shape for t in s.things}), 2))
        if first and then:
            return [first, Turn("And " + then.question.removeprefix("What color is "), then.answer)]
    if kind == 1 and len(s.things) > 1:
        one, two = rng.sample(s.things, 2)
        first, then = where(s, one.colour, one.shape), where(s, two.colour, two.shape)
        if first and then and one.name != two.name:
            alone = sum(t.colour == two.colour for t in s.things) == 1
            return [first, Turn(f"And the {two.colour} one?" if alone else f"And the {two.name}?", then.answer)]
    if kind == 2 and s.things:
        turns = []
        for colour, asked in zip(
            rng.sample(sorted({t.colour for t in s.things} | {"red", "blue"}), 2),
            ("How many {} shapes are there?", "And how many {} ones?"),
            strict=True,
        ):
            n = sum(t.colour == colour for t in s.things)
            turns.append(Turn(asked.format(colour), _count(n, f"{colour} shape", f"{colour} shapes")))
        return turns
    turns = scene_turns(s, rng, 2)
    return turns if len(turns) == 2 else []


def _event(actor: Actor) -> str:
    if actor.direction:
        return f"The {actor.thing.name} moves {actor.direction}."
    return f"The {actor.thing.name} " + ("appears." if actor.shown else "disappears.")


def _at(second: float) -> str:
    return f"At second {number(int(second))}."


def clip_turns(c: Clip, rng: Random, how_many: int, time: bool | None = None) -> list[Turn]:
    """Different questions about a clip; only those about time, or none of them, if so asked."""
    pick = rng.choice
    when: list[Turn] = []
    what: list[Turn] = []
    moving = [x for x in c.actors if x.direction]
    coming = sorted((x for x in c.actors if x.shown or x.hidden < 99), key=lambda x: x.shown or x.hidden)
    for m in moving:
        what.append(Turn(pick(("What moves?", "Which shape moves?")), f"The {m.thing.name} moves."))
        what.append(
            Turn(pick(("Which way does it move?", f"Which way does the {m.thing.name} move?")), f"It moves {m.direction}.")
        )
        what.append(Turn("What happens?", _event(m)))
        if m.begin:
            when.append(
                Turn(pick(("When does it start to move?", f"When does the {m.thing.shape} start to move?")), _at(m.begin))
            )
    if coming:
        what.append(Turn("What happens first?", _event(coming[0])))
        what.append(Turn("What happens last?", _event(coming[-1])))
        for x in coming:
            when.append(
                Turn(f"When does the {x.thing.name} {'appear' if x.shown else 'disappear'}?", _at(x.shown or x.hidden))
            )
    if c.beep >= 0:
        when.append(Turn(pick(("When do you hear the beep?", "When is the beep?")), _at(c.beep)))
        what.append(Turn("Do you hear a beep?", "Yes, I do."))
    still = [x for x in c.actors if not x.direction and not x.shown and x.hidden == 99]
    for x in still[:1]:
        what.append(Turn(f"Does the {x.thing.name} move?", "No, it does not."))
    what.append(Turn("How long is the video?", f"It is {number(c.seconds)} seconds long."))
    turns = when if time else what if time is False else when + what
    return rng.sample(turns, min(how_many, len(turns)))


def sound_turns(s: Sound, rng: Random, how_many: int) -> list[Turn]:
    knocks = "one knock" if s.count == 1 else f"{number(s.count)} knocks"
    heard = {"rise": "A tone that goes up.", "fall": "A tone that goes down.", "nothing": "Nothing."}
    turns = [Turn(rng.choice(("What do you hear?", "What is this sound?")), heard.get(s.kind, sentence(knocks)))]
    if s.kind in ("rise", "fall"):
        asked = rng.choice(("Does the tone go up or down?", "Which way does the tone go?"))
        turns.append(Turn(asked, "It goes up." if s.kind == "rise" else "It goes down."))
    if s.kind == "knock":
        turns.append(Turn(rng.choice(("How many knocks do you hear?", "Count the knocks.")), sentence(knocks)))
    return rng.sample(turns, min(how_many, len(turns)))


TALK = (
    ("Hello.", "Hello! How can I help you?"),
    ("Hello!", "Hello! How can I help you?"),
    ("Hi.", "Hello! How can I help you?"),
    ("Good morning.", "Good morning! How can I help you?"),
    ("Good evening.", "Good evening! How can I help you?"),
    ("How are you?", "I am fine, thank you."),
    ("Who are you?", "I am Omni, a small model that can see, hear and speak."),
    ("What are you?", "I am Omni, a small model that can see, hear and speak."),
    ("What is your name?", "My name is Omni."),
    ("What can you do?", "I can see shapes, hear your questions and speak the answers."),
    ("What can I ask you?", "Show me a picture and ask me how many circles there are."),
    ("Can you see?", "Yes, I can see pictures and videos."),
    ("Can you hear me?", "Yes, I can hear you."),
    ("Can you speak?", "Yes, I can speak."),
    ("Do you like music?", "I do not know, I only hear tones and knocks."),
    ("What is your favorite color?", "My favorite color is blue."),
    ("What is your favorite shape?", "My favorite shape is the star."),
    ("Which colors do you know?", "I know red, green, blue, yellow, orange, purple, pink and brown."),
    ("Which shapes do you know?", "I know circles, squares, triangles, stars, hearts, crosses, diamonds and rings."),
    ("How old are you?", "I am very young."),
    ("Are you a person?", "No, I am a small model."),
    ("Are you happy?", "Yes, I am happy to help you."),
    ("Tell me a joke.", "The circle left early, it had no point."),
    ("Tell me another joke.", "The square is never wrong, it is always right."),
    ("Thank you.", "You are welcome."),
    ("Thank you very much.", "You are welcome."),
    ("Goodbye.", "Goodbye! See you soon."),
    ("Bye.", "Goodbye! See you soon."),
    ("Good night.", "Good night! See you soon."),
    ("Please help me.", "Yes, I am happy to help you."),
    ("Stop.", "Okay."),
)


def talk_turn(rng: Random) -> Turn:
    """Without a picture: a greeting, a sum, numbers in order, a word to say again."""
    kind = rng.random()
    if kind < 0.4:
        return Turn(*rng.choice(TALK))
    if kind < 0.62:
        x, y = rng.randrange(11), rng.randrange(11)
        if rng.random() < 0.5:
            asked, value, _word = f"{number(x)} plus {number(y)}", x + y, "plus"
        else:
            x, y = max(x, y), min(x, y)
            asked, value, _word = f"{number(x)} minus {number(y)}", x - y, "minus"
        return Turn(f"What is {asked}?", sentence(f"{asked} is {number(value)}"))
    if kind < 0.77:
        n = rng.randrange(1, 100)
        if rng.random() < 0.6:
            return Turn(f"What comes after {number(n)}?", sentence(number(n + 1)))
        return Turn(f"What comes before {number(n)}?", sentence(number(n - 1)))
    if kind < 0.82:
        n = rng.randint(2, 10)
        return Turn(f"Count to {number(n)}.", sentence(", ".join(number(i) for i in range(1, n + 1))))
    if kind < 0.9:
        s = scene(rng)
        turns = list(scene_turns(s, rng, 1))
        return Turn(turns[0].question, NO_PICTURE) if turns else talk_turn(rng)
    words = some_words(rng, rng.randint(1, 4))
    return Turn(f"Say {words}.", sentence(words))


def some_words(rng: Random, how_many: int) -> str:
    """Words of the world in no order, each as it stands inside a sentence."""
    return " ".join(rng.choice(vocabulary()) if rng.random() < 0.8 else number(rng.randrange(101)) for _ in range(how_many))


OUTSIDE = (
    "Who is the {0} of {1}?", "What is the {0}?", "Tell me about the {0}.", "Why is the {0} {1}?", "When was the {0}?",
    "How do I {0} a {1}?", "What does {0} mean?", "Who made the {0}?", "Can you {0} the {1}?",
    "What is the best {0}?", "Is {0} better than {1}?", "Play some {0}.", "Open the {0}.", "How far is {0}?",
    "What time is it in {0}?", "Translate {0} to {1}.", "Write a {0} about {1}.", "I need a {0}.",
    "Where is the {0} of {1}?", "What will the {0} be {1}?",
)  # fmt: skip


def outside_turn(rng: Random, strangers: Sequence[str]) -> Turn:
    """A question with words that the world has not."""
    asked = rng.choice(OUTSIDE).format(*rng.sample(strangers, 2))
    return Turn(asked, UNKNOWN)


def any_turn(rng: Random) -> Turn:
    """A question and answer of any kind, whatever it is about."""
    kind = rng.random()
    if kind < 0.6:
        s = scene(rng)
        turns = scene_dialogue(s, rng) if rng.random() < 0.2 else scene_turns(s, rng, 2)
        return rng.choice(turns) if turns else any_turn(rng)
    if kind < 0.75:
        return rng.choice(clip_turns(clip(rng), rng, 3))
    if kind < 0.8:
        return rng.choice(sound_turns(sound(rng), rng, 2))
    return talk_turn(rng)


def spoken_sentence(rng: Random) -> str:
    """Something to be spoken or heard: an answer, a question, or words in no order; never a held-out one."""
    kind = rng.random()
    turn = any_turn(rng)
    if kind < 0.2:
        text = turn.answer
    elif kind < 0.4:
        text = turn.question
    else:
        text = sentence(some_words(rng, rng.randint(2, 7)))
        if rng.random() < 0.25:
            text = text[:-1] + rng.choice("?!?")
        if rng.random() < 0.25:
            words = text.split()
            cut = rng.randrange(1, len(words))
            text = " ".join(words[:cut]) + ", " + " ".join(words[cut:])
    return spoken_sentence(rng) if held_out(text) else text


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word of the world, as it is written inside a sentence."""
    words: dict[str, None] = {}
    rng = Random(0)
    texts = [t for pair in TALK for t in pair]
    texts += [number(n) for n in range(101)] + list(READABLE + MORE) + [UNKNOWN, NO_PICTURE]
    for _ in range(6000):
        s = scene(rng)
        c = clip(rng)
        turns = scene_turns(s, rng, 3) + clip_turns(c, rng, 9) + sound_turns(sound(rng), rng, 3) + scene_dialogue(s, rng)
        texts += [t for turn in turns for t in (turn.question, turn.answer)]
    texts += [
        "Repeat what I said. What did I say? You said: write it down. What are the words? "
        "plus minus count after before comes to say"
    ]
    for text in texts:
        for word in text.replace(",", " ").replace(":", " ").replace(".", " ").replace("?", " ").replace("!", " ").split():
            words.setdefault(word if word in ("I", "Omni") else word.lower())
    return tuple(sorted(words))
