"""A checkpoint's chat template, rendered so that no text from outside can become a control token.

Every string of a message is replaced by a stand-in before the template sees it. What the template then emits is cut at the
special tokens, all of which are its own, and the texts are put back into the plain runs between them. A harmless chat gets
exactly the ids that transformers gives the rendered string; a hostile one gets its `<|im_end|>` spelled out in ordinary ids.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, meta, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from omni.errors import CheckpointError, MessageError, OptionError
from omni.loading.json import read_json
from omni.prompt.tokenizer import Run, Special, special_names

DEFAULT = """\
{%- set seen = namespace(picture=0, audio=0, video=0) -%}
{%- for message in messages -%}
    {%- if loop.first and message.role != 'system' -%}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
    {%- endif -%}
    {{- '<|im_start|>' ~ message.role ~ '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type in ('image', 'image_url') -%}
                {%- set seen.picture = seen.picture + 1 -%}
                {{- 'Picture ' ~ seen.picture ~ ': ' if add_vision_id -}}
                {{- '<|vision_bos|><|IMAGE|><|vision_eos|>' -}}
            {%- elif part.type in ('audio', 'audio_url', 'input_audio') -%}
                {%- set seen.audio = seen.audio + 1 -%}
                {{- 'Audio ' ~ seen.audio ~ ': ' if add_audio_id -}}
                {{- '<|audio_bos|><|AUDIO|><|audio_eos|>' -}}
            {%- elif part.type in ('video', 'video_url') -%}
                {%- set seen.video = seen.video + 1 -%}
                {{- 'Video ' ~ seen.video ~ ': ' if add_vision_id -}}
                {{- '<|vision_bos|><|VIDEO|><|vision_eos|>' -}}
            {%- elif part.type == 'text' -%}
                {{- part.text -}}
            {%- else -%}
                {{- raise_exception('a part of type ' ~ part.type ~ ' is none of text, image, audio, video') -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""The rule of the published template, for a checkpoint that ships none."""
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
NAMED = ("role", "type")
"""Keys whose values a template compares: they stay as they are, and must be plain words."""


class Template:
    """A jinja template in transformers' dialect.

    A template that looks into texts (searches, cuts, changes case) finds stand-ins there; trimming white space, testing for
    emptiness and `tojson` work. Qwen2.5's templates do no more.
    """

    def __init__(self, source: str, specials: Iterable[str], named: Mapping[str, str] | None = None) -> None:
        """`specials`: names to cut at. `named`: special tokens that the template may ask for by role (`eos_token`)."""
        env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        env.globals["raise_exception"] = _raise
        env.filters["tojson"] = _tojson
        try:
            self._template = env.from_string(source)
            self.takes_tools = "tools" in meta.find_undeclared_variables(env.parse(source))
        except TemplateSyntaxError as e:
            raise CheckpointError(f"the chat template is no jinja, line {e.lineno}: {e.message}") from e
        self._specials = sorted(specials, key=len, reverse=True)
        self._named = dict(named or {})

    @classmethod
    def read(cls, folder: Path) -> Template:
        """From `chat_template.jinja`, `chat_template.json` or `tokenizer_config.json`; DEFAULT where none holds one."""
        path = folder / "tokenizer_config.json"
        config = read_json(path) if path.exists() else {}
        found = {key: value.get("content") if isinstance(value, Mapping) else value for key, value in config.items()}
        named = {key: value for key, value in found.items() if key.endswith("_token") and isinstance(value, str)}
        return cls(_source(folder, config), special_names(folder), named)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        number_media: bool = False,
    ) -> list[Run]:
        """The chat as runs; neighbouring runs of text are one.

        Args:
            messages: plain JSON, each with a `role` and a `content`, a string or a list of parts with a `type`.
            number_media: write "Picture 1: " and the like before media.

        Raises MessageError for messages that are no such thing or that the template refuses, OptionError for tools where the
        template has no place for them.
        """
        if tools and not self.takes_tools:
            raise OptionError("this checkpoint's chat template knows no tools; leave them out")
        _check(messages)
        guard = _Guard(self._specials)
        try:
            text = self._template.render(
                messages=guard.shield(messages), tools=guard.shield(tools) if tools else None,
                add_generation_prompt=add_generation_prompt, add_vision_id=number_media, add_audio_id=number_media,
                guard=guard, **self._named,
            )  # fmt: skip
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as e:
            raise MessageError(f"the chat template cannot render these messages: {guard.restore(str(e))}") from e
        return [Special(run) if run in self._specials else guard.restore(run) for run in guard.cut(text) if run]


class _Guard:
    """Stand-ins for the strings of one rendering: digits after a secret number, which no text can hold."""

    def __init__(self, specials: Sequence[str]) -> None:
        nonce = 10**38 + secrets.randbelow(10**38)
        self._prefix = f"{nonce}."
        self._stand_in_pattern = re.compile(rf"{nonce}\.(\d+)\.")
        self._special_pattern = re.compile("(" + "|".join(map(re.escape, specials)) + ")") if specials else None
        self._texts: list[str] = []

    def shield(self, node: Any, key: object = "") -> Any:
        """A copy of a JSON tree with stand-ins for its strings, apart from keys and NAMED values that are plain words."""
        if node is None or isinstance(node, (bool, int, float)):
            return node
        if isinstance(node, str):
            return node if key in NAMED and self._is_word(node) else self._stand_in(node)
        if isinstance(node, Mapping):
            return {k if self._is_word(k) else self._stand_in(str(k)): self.shield(v, k) for k, v in node.items()}
        if isinstance(node, (list, tuple)):
            return [self.shield(item) for item in node]
        return self._hold("")  # a picture, bytes: a template asks whether it is there, and never writes it

    def cut(self, text: str) -> list[str]:
        """The special tokens of a rendered text, and what is between them."""
        return self._special_pattern.split(text) if self._special_pattern else [text]

    def restore(self, text: str) -> str:
        return self._stand_in_pattern.sub(lambda found: self._texts[int(found[1])], text)

    def escape(self, text: str, ensure_ascii: bool) -> str:
        """JSON of stand-ins, made to become JSON of what they stand for."""

        def hold(found: re.Match[str]) -> str:
            return self._hold(json.dumps(self._texts[int(found[1])], ensure_ascii=ensure_ascii)[1:-1])

        return self._stand_in_pattern.sub(hold, text)

    def _is_word(self, text: object) -> bool:
        return isinstance(text, str) and WORD.fullmatch(text) is not None and len(self.cut(text)) == 1

    def _stand_in(self, text: str) -> str:
        """White space at the ends stays outside, where a template may trim it."""
        core = text.strip()
        if not core:
            return text
        start = text.index(core)
        return text[:start] + self._hold(core) + text[start + len(core) :]

    def _hold(self, text: str) -> str:
        self._texts.append(text)
        return f"{self._prefix}{len(self._texts) - 1}."


@pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' filter: jinja's own escapes HTML."""
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    guard = context["guard"]
    assert isinstance(guard, _Guard)
    return guard.escape(text, ensure_ascii)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _check(messages: Sequence[Mapping[str, Any]]) -> None:
    if not isinstance(messages, (list, tuple)) or not messages:
        raise MessageError("messages must be a list with at least one message")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise MessageError(f"message {i} is no object with a role and a content")
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not WORD.fullmatch(role):
            raise MessageError(f"message {i} has no role such as 'user'")
        if content is None or isinstance(content, str):
            continue
        if not isinstance(content, (list, tuple)):
            raise MessageError(f"the content of message {i} is neither a string nor a list of parts")
        for part in content:
            if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
                raise MessageError(f"message {i} has a part that is no object with a type")
            if part["type"] == "text" and not isinstance(part.get("text"), str):
                raise MessageError(f"message {i} has a text part without a text")


def _source(folder: Path, config: Mapping[str, Any]) -> str:
    plain, wrapped = folder / "chat_template.jinja", folder / "chat_template.json"
    if plain.exists():
        try:
            return plain.read_text(encoding="utf-8")
        except (OSError, ValueError) as e:
            raise CheckpointError(f"{plain} cannot be read ({e}); fetch it again") from e
    path = wrapped if wrapped.exists() else folder / "tokenizer_config.json"
    source = read_json(wrapped).get("chat_template") if wrapped.exists() else config.get("chat_template")
    if isinstance(source, list):  # several by name
        source = next((item.get("template") for item in source if item.get("name") == "default"), source)
    if source is not None and not isinstance(source, str):
        raise CheckpointError(f"{path} holds a chat_template that is no text")
    return DEFAULT if source is None else source
