"""A checkpoint's chat template, rendered so that no text from outside can become a control token.

The template sees all texts as they are, and may search, cut and strip them. What is marked are the special tokens that the
template itself writes, in its constants, and their marks go with them through what it does to strings (`Marked`). The
rendered text is cut at marked tokens alone. A harmless chat gets exactly the ids that transformers gives the rendered text;
a hostile one gets its `<|im_end|>` spelled out in ordinary ids, even where two texts spell it together.

One thing more is marked: the words of the model's own language (`<think>`, `<tool_call>`: added tokens that are no control
tokens) in what an assistant said, so that an answer is read again as it was given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes, pass_context, pass_eval_context
from jinja2.filters import do_join, do_replace
from jinja2.nodes import EvalContext
from jinja2.visitor import NodeTransformer

from omni.errors import CheckpointError, MessageError, OptionError
from omni.loading.json import check_file, is_there, read_json
from omni.prompt.bounded import (
    BoundedEnvironment,
    Unbounded,
    bound,
    bounded,
    chars_in,
    check_indent,
    check_replaced,
    joined,
    made,
    sized,
    text_of,
)
from omni.prompt.marked import Marked, concat, mark, special_spans
from omni.prompt.tokenizer import Run, Special, read_added

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
PLAIN = "You are a helpful assistant."
"""What the system says where DEFAULT is given no system's message."""
HERMES = {
    "system": """\
{{- content + '\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n' -}}
{{- 'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' -}}
{%- for tool in tools -%}
    {{- '\\n' + tool | tojson -}}
{%- endfor -%}
{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within ' -}}
{{- '<tool_call></tool_call> XML tags:\\n<tool_call>\\n' -}}
{{- '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>' -}}
""",
    "calls": """\
{{- content -}}
{%- for call in calls -%}
    {{- '\\n' if content or not loop.first -}}
    {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
    {{- call.function.arguments | tojson + '}\\n</tool_call>' -}}
{%- endfor -%}
""",
    "results": """\
{%- for content in results -%}
    {{- '\\n' if not loop.first -}}
    {{- '<tool_response>\\n' + content + '\\n</tool_response>' -}}
{%- endfor -%}
""",
}
"""What turns hold in the form that Qwen2.5 was taught to call in (its published chat template), for templates without it."""
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
GIVEN = frozenset({"messages", "tools", "add_generation_prompt"})
"""What a rendering gives every template."""
MOST_SOURCE = 1 << 18
"""Characters of a template's source; published ones have up to ten thousand."""
MARK, CONCAT = "mark constant", "concat all"
"""Filters that no template can write, since their names hold a space."""


class Template:
    """A jinja template in transformers' dialect.

    Attributes:
        takes_tools: whether it has a place for tools, of its own or by HERMES.
        adds_tools: whether that is by HERMES.
        switches: names of what else it reads (`enable_thinking`).
    """

    def __init__(
        self,
        source: str,
        specials: Iterable[str],
        named: Mapping[str, str] | None = None,
        words: Iterable[str] = (),
        *,
        hermes: bool = False,
    ) -> None:
        """What is marked in which text.

        Args:
            specials: names of all special tokens, which the template may write.
            named: those that it may ask for by role (`eos_token`).
            words: those that an assistant's text may hold.
            hermes: write tools, calls and results as HERMES has them, where the template has no place for tools.
        """
        if len(source) > MOST_SOURCE:
            raise CheckpointError(
                f"the chat template has {len(source)} characters, and {MOST_SOURCE} are read; fetch it again"
            )
        self._specials, self._words = _any_of(specials), _any_of(words)
        env = _Environment(self._specials)
        try:
            tree = env.parse(source)
            reads, inner = meta.find_undeclared_variables(tree), _set_inside(tree)
            self._template = env.marked(source)
        except TemplateSyntaxError as e:
            raise CheckpointError(f"the chat template is no jinja, line {e.lineno} ({e.message}); fetch it again") from e
        except (Unbounded, RecursionError, SyntaxError, MemoryError, ValueError, OverflowError) as e:
            raise CheckpointError(f"the chat template cannot be used ({type(e).__name__}: {e}); fetch it again") from e
        self._named = {role: mark(name, self._specials) for role, name in (named or {}).items()}
        self.adds_tools = hermes and "tools" not in reads
        self.takes_tools = hermes or "tools" in reads
        self._hermes = {name: env.marked(of_one) for name, of_one in HERMES.items()} if self.adds_tools else {}
        self.switches = frozenset(reads - inner - GIVEN - self._named.keys())

    @classmethod
    def read(cls, folder: Path, *, hermes: bool = False) -> Template:
        """From `chat_template.jinja`, `chat_template.json` or `tokenizer_config.json`; DEFAULT where none holds one.

        hermes: as for the template itself.
        """
        path = folder / "tokenizer_config.json"
        config = read_json(path) if is_there(path) else {}
        found = {key: value.get("content") if isinstance(value, Mapping) else value for key, value in config.items()}
        named = {key: value for key, value in found.items() if key.endswith("_token") and isinstance(value, str)}
        added = read_added(folder)
        words = [name for name, token in added.items() if token.is_word]
        return cls(_source(folder, config), added, named, words, hermes=hermes)

    def try_out(self) -> None:
        """Render a small chat; CheckpointError for a template that takes more time or room than it may."""
        with suppress(MessageError):  # it may ask for more than a greeting
            self.render([{"role": "user", "content": "Hello"}], add_generation_prompt=True)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> list[Run]:
        """The chat as runs; neighbouring runs of text are one.

        Args:
            messages: plain JSON, each with a `role` and a `content`, a string or a list of parts with a `type`; parts that
                are all text are one string to the template.
            template_args: of `switches`, those to be set.

        Raises MessageError for messages that are no such thing or that the template refuses, OptionError for tools or
        arguments that the template does not read.
        """
        if tools and not self.takes_tools:
            raise OptionError("this checkpoint's chat template knows no tools; leave them out")
        _check(messages)
        if not self.takes_tools and any(m.get("tool_calls") or m["role"] == "tool" for m in messages):
            raise MessageError("this checkpoint's chat template knows no tools; leave calls and their results out")
        shown, args = [self._shown(message) for message in messages], self._checked(template_args or {})
        given = _plain(tools) if tools else None
        try:
            with bounded(chars_in((shown, given, args))):
                text = self._template.render(
                    messages=self._with_tools(shown, given) if self.adds_tools else shown,
                    tools=given,
                    add_generation_prompt=add_generation_prompt,
                    **self._named,
                    **args,
                )
        except (Unbounded, RecursionError, MemoryError) as e:
            raise CheckpointError(f"the chat template cannot be used ({type(e).__name__}: {e}); fetch it again") from e
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as e:
            raise MessageError(f"the chat template cannot render these messages: {e}") from e
        return self._runs(text)

    def _checked(self, args: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(args, Mapping):
            raise OptionError(f"template_args is {args!r}; give names with values")
        for name in args:
            if name not in self.switches:
                known = ", ".join(sorted(self.switches)) or "nothing of the kind"
                raise OptionError(f"this checkpoint's chat template does not read {name!r}; it reads {known}")
        return {name: _plain(value) for name, value in args.items()}

    def _shown(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message as the template sees it."""
        shown: dict[str, Any] = _plain(message)
        parts = shown.get("content")
        if isinstance(parts, list) and all(part["type"] == "text" for part in parts):
            shown["content"] = "".join(part["text"] for part in parts)
        if shown["role"] == "assistant":
            said = {key: shown.get(key) for key in ("content", "reasoning_content")}
            shown |= {key: mark(text, self._words) for key, text in said.items() if isinstance(text, str)}
        return shown

    def _with_tools(self, shown: list[dict[str, Any]], tools: list[Any] | None) -> list[dict[str, Any]]:
        """The messages with tools, calls and results in what they say; results of neighbours are one user's turn."""
        write, turns = self._hermes, list[dict[str, Any]]()
        if tools:
            system, shown = (shown[0], shown[1:]) if shown[0]["role"] == "system" else ({"role": "system"}, shown)
            turns.append(system | {"content": write["system"].render(content=system.get("content", PLAIN), tools=tools)})
        for is_result, group in groupby(shown, lambda message: message["role"] == "tool"):
            if is_result:
                results = [message["content"] or "" for message in group]
                turns.append({"role": "user", "content": write["results"].render(results=results)})
                continue
            for message in group:
                if calls := message.pop("tool_calls", None):
                    message["content"] = write["calls"].render(content=message["content"] or "", calls=calls)
                turns.append(message)
        return turns

    def _runs(self, text: str) -> list[Run]:
        plain, runs, at = _unmarked(text), list[Run](), 0
        for first, last in special_spans(text):
            for found in self._specials.finditer(plain, first, last):
                runs += (plain[at : found.start()], Special(found[0]))
                at = found.end()
        return [run for run in (*runs, plain[at:]) if run]


class _Environment(BoundedEnvironment):
    """transformers' dialect of jinja, in which strings keep their marks."""

    concat = staticmethod(lambda parts: made(concat(joined(parts))))

    def __init__(self, specials: re.Pattern[str]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        self.globals["raise_exception"] = _raise
        marked = cache(lambda text: mark(text, specials))
        # a filter that takes the context is not computed while compiling, which would drop the marks
        self._specials = specials
        marks = pass_context(lambda _, text: marked(text))
        self.watch({MARK: marks, CONCAT: _concat, "tojson": _tojson, "join": _join, "replace": _replace})

    def marked(self, source: str) -> jinja2.Template:
        """A template whose constants are marked."""
        tree = bound(_MarkConstants(self._specials).visit(self.parse(source)))
        tree.set_environment(self)
        return self.from_string(tree)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As jinja's, with the methods of `Marked` for all strings."""
        return super().getattr(Marked(obj) if type(obj) is str else obj, attribute)


class _MarkConstants(NodeTransformer):
    """Marks the special tokens in the constants of a template, and has `~` keep marks."""

    def __init__(self, specials: re.Pattern[str]) -> None:
        self._specials = specials

    def visit_Const(self, node: nodes.Const) -> nodes.Expr:
        return self._mark(node, node.value)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Expr:
        return self._mark(node, node.data)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), CONCAT)

    def _mark(self, node: nodes.Expr, value: object) -> nodes.Expr:
        is_special = isinstance(value, str) and self._specials.search(value)
        return _filter(nodes.Const(value, lineno=node.lineno), MARK) if is_special else node


def _set_inside(tree: nodes.Template) -> set[str]:
    """Names set within loops and macros, which jinja counts as read from outside where only some branches set them."""
    inner = tree.find_all((nodes.For, nodes.Macro))
    return {name.name for block in inner for name in block.find_all(nodes.Name) if name.ctx == "store"}


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Finds names, the longest of those that begin at a place; of no names nothing."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)")


class _Medium(str):
    """A picture, bytes: a template asks whether it is there, and never writes it."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return True


def _plain(node: Any) -> Any:
    """A copy of a JSON tree, with strings that are just strings."""
    if node is None or isinstance(node, (bool, int, float)):
        return node
    if isinstance(node, str):
        return _unmarked(node)
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(item) for item in node]
    return _Medium()


def _unmarked(text: str) -> str:
    return "".join((text,))  # unlike str(), which hands a subclass's own answer on


def _concat(values: Iterable[object]) -> str:
    return concat(joined(map(text_of, values)))


@pass_eval_context
def _join(context: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    parts = [*value]
    sized([*parts, *[d] * len(parts)])
    return do_join(context, parts, Marked(str(d)), attribute)


@pass_eval_context
def _replace(context: EvalContext, s: str, old: str, new: str, count: int | None = None) -> str:
    check_replaced(str(s), str(old), str(new))
    return do_replace(context, Marked(str(s)), old, new, count)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' filter: jinja's own escapes HTML."""
    check_indent(indent)
    return json.dumps(sized(value), ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


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
            check_file(plain)
            return plain.read_text(encoding="utf-8")
        except (OSError, ValueError) as e:
            raise CheckpointError(f"{plain} cannot be read ({e}); fetch it again") from e
    path = wrapped if wrapped.exists() else folder / "tokenizer_config.json"
    source = read_json(wrapped).get("chat_template") if wrapped.exists() else config.get("chat_template")
    if isinstance(source, list):  # several by name
        source = next((item.get("template") for item in source if item.get("name") == "default"), source)
    if source is not None and not isinstance(source, str):
        raise CheckpointError(f"{path} holds a chat_template that is no text; fetch it again")
    return DEFAULT if source is None else source
