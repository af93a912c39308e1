"""Templates that would take hours, or all memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from omni.errors import CheckpointError, MessageError
from omni.prompt import bounded
from omni.prompt.template import Template

CHAT = [{"role": "user", "content": "Hello"}]
DOUBLING = "{% set ns = namespace(x='ab') %}{% for i in range(64) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"
HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a macro twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a macro without an end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a product of a string": "{{ 'x' * 9999999999 }}",
    "a product from the left": "{{ 9999999999 * 'x' }}",
    "a product of a list": "{{ ([0] * 9999999999)|length }}",
    "a power": "{{ 9 ** 99999999 }}",
    "products in a loop": "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "a width by percent": "{{ '%9999999999d' % 1 }}",
    "a width by filter": "{{ '%9999999999d'|format(1) }}",
    "a width from outside": "{{ '%*d' % (999999999, 1) }}",
    "a width by format": "{{ '{:>9999999999}'.format(1) }}",
    "a width in a width": "{{ '{:>{}}'.format(1, 9999999999) }}",
    "a format that repeats": "{% set x = 'y' * 999999 %}{{ '%s%s%s%s%s%s%s%s' % (x, x, x, x, x, x, x, x) }}",
    "format that repeats": "{% set x = 'y' * 999999 %}{{ '{0}{0}{0}{0}{0}{0}{0}{0}'.format(x) }}",
    "an indent": "{{ 'a\nb'|indent(9999999999) }}",
    "an indent of JSON": "{{ [1]|tojson(indent=9999999999) }}",
    "a centre": "{{ 'x'|center(9999999999) }}",
    "a batch": "{{ [1]|batch(9999999999, 0)|list }}",
    "doubling by +": DOUBLING.replace("STEP", "ns.x + ns.x"),
    "doubling by ~": DOUBLING.replace("STEP", "ns.x ~ ns.x"),
    "doubling by join": DOUBLING.replace("STEP", "[ns.x, ns.x]|join"),
    "doubling by a separator": DOUBLING.replace("STEP", "'abc'|join(ns.x)"),
    "doubling by str.join": DOUBLING.replace("STEP", "ns.x.join(['a', 'b', 'c'])"),
    "doubling by replace": DOUBLING.replace("STEP", "ns.x|replace('a', ns.x)"),
    "doubling by str.replace": DOUBLING.replace("STEP", "ns.x.replace('a', ns.x)"),
    "doubling by a block": DOUBLING.replace("{% set ns.x = STEP", "{% set y %}{{ ns.x * 2 }}{% endset %}{% set ns.x = y"),
    "doubling by lists": DOUBLING.replace("STEP", "[ns.x, ns.x]"),
    "doubling by objects": DOUBLING.replace("STEP", "{'a': ns.x, 'b': ns.x}"),
    "doubling by adding lists": DOUBLING.replace("'ab'", "[1]").replace("STEP", "ns.x + ns.x"),
    "escapes of escapes": DOUBLING.replace("'ab'", "'\"'").replace("STEP", "ns.x|tojson"),
    "many copies": "{% set x = 'y' * 4000000 %}" + "".join(f"{{% set a{i} = x|upper %}}" for i in range(500)),
    "many slices": "{% set x = 'y' * 4000000 %}" + "".join(f"{{% set a{i} = x[1:] %}}" for i in range(500)),
    "a source of a million characters": "x" * 1_000_000,
    "brackets": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
}  # fmt: skip


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_template_takes_so_much_and_no_more(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "SECONDS", 0.5)
    started = time.thread_time()
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="chat template"):
            Template(source, ()).render(CHAT, add_generation_prompt=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.thread_time() - started < 8  # under the tracer, which makes it several times slower
    assert peak < 600 << 20


@pytest.mark.parametrize(
    "source", ["{{ 'x'.ljust(9999999999) }}", "{{ lipsum(n=9999999) }}", "{{ [[1], [2]]|sum(start=[]) }}"]
)
def test_what_no_template_needs_is_left_out(source: str) -> None:
    with pytest.raises(MessageError, match="chat template"):
        Template(source, ()).render(CHAT, add_generation_prompt=True)


def test_a_long_chat_is_no_bomb() -> None:
    source = (
        "{% for m in messages[::-1] %}{% set x = m.content.split('</think>')[-1].lstrip('\\n') %}{% endfor %}"
        "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content|trim + '<|im_end|>\\n' }}{% endfor %}"
    )
    chat = [{"role": "user", "content": "word " * 20_000}] * 60
    runs = Template(source, ("<|im_start|>", "<|im_end|>")).render(chat, add_generation_prompt=True)
    assert len(runs) == 4 * len(chat)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{% for a, b in {'x': 1}.items() %}{{ a }}{{ b }}{{ loop.last }}{% endfor %}", "x1True"),
        ("{% for a in nothing %}{% else %}none{% endfor %}", "none"),
        ("{% for c in 'ab' %}{{ loop.index }}{{ c }}{{ loop.nextitem }}{% endfor %}", "1ab2b"),
        ("{% for n in range(3) if n != 1 %}{{ n }}{% endfor %}", "02"),
        ("{{ [1, 2]|sum }}{{ [3, 4]|map('string')|join('-') }}{{ (1, 'x') }}", "33-4(1, 'x')"),
        ("{{ '%s:%03d' % ('a', 7) }}{{ '%s'|format('b') }}{{ '{}-{:>3}'.format('c', 1) }}", "a:007bc-  1"),
        ("{{ 'a\nb'|indent(2) }}{{ {'k': [1]}|tojson(indent=2) }}", 'a\n  b{\n  "k": [\n    1\n  ]\n}'),
        ("{{ 2 ** 10 }}{{ 7 % 4 }}{{ 'ab' * 2 }}{{ ([1] + [2])|length }}", "10243abab2"),
    ],
)
def test_what_templates_do_is_done(source: str, told: str) -> None:
    assert "".join(map(str, Template(source, ()).render(CHAT, add_generation_prompt=True))) == told
