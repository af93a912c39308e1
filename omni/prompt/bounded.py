"""A sandbox for templates from strangers: what a template may use of time, and how large what it makes may become.

jinja's own sandbox keeps a template from what is not its own. It may still loop for hours, multiply strings, or pad them to
a billion characters. Here each loop, call and filter looks at the clock, what can make something large is measured before it
is done, all that is made is counted, and what no chat template needs is left out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

SECONDS = 2.0
"""Of one thread's work that a rendering may take; published templates take milliseconds."""
MOST_CHARS = 4 << 20
"""That one string may have, besides eight times what the rendering is given."""
PASSES = 16
"""All strings that a rendering makes may have so many times as many."""
MOST_ITEMS = 1 << 20
"""That one list or object may hold, those inside it included."""
MOST_BITS = 1 << 12
"""Of a whole number."""
MOST_INDENT = 64
COUNTED, SIZED = "counted items", "sized value"
"""Filters that no template can write, since their names hold a space."""
LEFT_OUT = (
    "batch", "center", "filesizeformat", "forceescape", "pprint", "random", "slice", "striptags", "truncate", "urlencode",
    "urlize", "wordwrap", "xmlattr",
)  # fmt: skip
"""Of jinja's filters."""
OF_TEXT = frozenset(
    (
        "capitalize", "casefold", "count", "endswith", "find", "format", "index", "isalnum", "isalpha", "isascii",
        "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip",
        "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split",
        "splitlines", "startswith", "strip", "swapcase", "title", "upper",
    )
)  # fmt: skip
"""Methods of strings that templates may call."""
WIDE = re.compile(r"\d{4,}|\*|\{[^{}]*\{")
"""In a format: a width of four digits, or one that comes from outside."""


class Unbounded(TemplateError):
    """A template that takes more than it may."""


@dataclass
class _Allowed:
    """What is left of a rendering's means."""

    until: float
    chars: int
    all_chars: int


_allowed: ContextVar[_Allowed | None] = ContextVar("allowed", default=None)


@contextmanager
def bounded(num_chars: int) -> Iterator[None]:
    """What is rendered inside is given so many characters; Unbounded where it takes more than it may."""
    most = MOST_CHARS + 8 * num_chars
    token = _allowed.set(_Allowed(time.thread_time() + SECONDS, most, PASSES * most))
    try:
        yield
    finally:
        _allowed.reset(token)


def check_time() -> None:
    """Raise Unbounded once the rendering has taken as long as it may."""
    allowed = _allowed.get()
    if allowed and time.thread_time() > allowed.until:
        raise Unbounded(f"it takes more than {SECONDS:g} s")


def check_chars(num_chars: int) -> None:
    """Raise Unbounded for a string that is longer than one may be."""
    allowed = _allowed.get()
    if num_chars > (allowed.chars if allowed else MOST_CHARS):
        raise Unbounded(f"it makes a text of {num_chars} characters")


def made(value: Any) -> Any:
    """The same value, counted among all that was made where it is a string or a list."""
    if isinstance(value, str):
        check_chars(len(value))
    if isinstance(value, str | list | tuple | dict) and (allowed := _allowed.get()):
        allowed.all_chars -= len(value) * (1 if isinstance(value, str) else 8)
        if allowed.all_chars < 0:
            raise Unbounded("it makes too many texts and lists")
    return value


def chars_in(value: Any) -> int:
    """Characters of a value as a text, about; Unbounded where it holds too much."""
    num_items, num_chars, left = 0, 0, [value]
    while left:
        item = left.pop()
        num_chars += len(item) if isinstance(item, str) else 16
        if isinstance(item, Mapping):
            left += item.keys()
            left += item.values()
            num_items += 2 * len(item)
        elif isinstance(item, list | tuple | set | frozenset):
            left += item
            num_items += len(item)
        if num_items > MOST_ITEMS:
            raise Unbounded(f"it makes a list of more than {MOST_ITEMS} items")
    return num_chars


def sized(value: Any) -> Any:
    """The same value, once everything inside it has been counted."""
    check_chars(chars_in(value))
    return value


def joined(parts: Iterable[str]) -> list[str]:
    """The parts of a text that is about to be put together."""
    parts = [*parts]
    check_chars(sum(map(len, parts)))
    return parts


def check_replaced(text: str, old: str, new: str) -> None:
    """Raise Unbounded where replacing makes too long a text."""
    check_chars(len(text) + max(0, len(new) - len(old)) * (text.count(old) if old else len(text) + 1))


def check_indent(indent: object) -> None:
    """Raise Unbounded for one of too many characters."""
    if (isinstance(indent, int) and indent > MOST_INDENT) or (isinstance(indent, str) and len(indent) > MOST_INDENT):
        raise Unbounded("it indents too far")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox whose templates are bounded, once `bound` has gone over their trees."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})  # which also keeps the compiler from computing constants of them

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        del self.globals["lipsum"]
        for name in LEFT_OUT:
            del self.filters[name]
        self.finalize = _finalize
        self.filters |= {COUNTED: _counted, SIZED: sized, "sum": _sum, "string": text_of}
        self.filters |= {"format": _format(self.filters["format"]), "indent": _indent(self.filters["indent"])}

    def watch(self, filters: Mapping[str, Callable[..., Any]]) -> None:
        """Add filters, and have all look at the clock."""
        self.filters |= filters
        self.filters = {name: make if name == COUNTED else _watched(make) for name, make in self.filters.items()}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_time()
        match operator:
            case "+" if isinstance(left, str) and isinstance(right, str):
                check_chars(len(left) + len(right))
            case "*":
                _check_product(left, right)
            case "**":
                _check_power(left, right)
            case "%" if isinstance(left, str):
                _check_format(left, "%", right)
        result = super().call_binop(context, operator, left, right)
        return made(result if isinstance(result, str | int | float) else sized(result))

    def call(
        __self, __context: Context, __obj: Any, *args: Any, **kwargs: Any
    ) -> Any:  # as jinja's own, since arguments may have any name
        check_time()
        text = getattr(__obj, "__self__", None)
        if isinstance(text, str):
            match __obj.__name__:
                case "replace" if len(args) > 1 and isinstance(args[0], str) and isinstance(args[1], str):
                    check_replaced(text, *args[:2])
                case "join" if args:
                    args = ([*args[0]],)
                    check_chars(len(text) * len(args[0]) + chars_in(args[0]))
                case "format":
                    _check_format(text, "{", (args, kwargs))
        return made(super().call(__context, __obj, *args, **kwargs))

    def getitem(self, obj: Any, argument: Any) -> Any:
        check_time()
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr not in OF_TEXT)

    def wrap_str_format(self, value: Any) -> Any:
        text, wrapped = getattr(value, "__self__", None), super().wrap_str_format(value)
        if wrapped is None:
            return None

        @wraps(wrapped)
        def narrow(*args: Any, **kwargs: Any) -> Any:
            _check_format(str(text), "{", (args, kwargs))
            return wrapped(*args, **kwargs)

        return narrow


class _Bound(NodeTransformer):
    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, SIZED) if isinstance(node.arg, nodes.Slice) else node  # jinja cuts without asking

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, COUNTED, [], [], None, None, lineno=node.lineno)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, SIZED)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, SIZED)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, SIZED) if node.ctx == "load" else node


def bound(tree: nodes.Template) -> nodes.Template:
    """The tree of a template, with its loops and lists counted."""
    counted: nodes.Template = _Bound().visit(tree)
    return counted


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Counted(Sequence[Any]):
    """Items of a loop, each of which looks at the clock. A sequence, since a loop asks for its length."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, at: Any) -> Any:
        return self._items[at]

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            check_time()
            yield item


def _counted(items: Any) -> Any:
    if isinstance(items, Sequence):
        return _Counted(items)
    if isinstance(items, Undefined) or not hasattr(items, "__iter__"):
        return items  # jinja's to tell
    counted = list[Any]()
    for item in items:
        check_time()
        counted.append(item)
        if len(counted) > MOST_ITEMS:
            raise Unbounded(f"it makes a list of more than {MOST_ITEMS} items")
    return _Counted(counted)


def _watched(make: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(make)  # jinja marks with attributes what it hands its context to
    def watched(*args: Any, **kwargs: Any) -> Any:
        check_time()
        return made(make(*args, **kwargs))

    return watched


def _check_product(left: Any, right: Any) -> None:
    for one, times in ((left, right), (right, left)):
        if isinstance(one, str) and isinstance(times, int):
            check_chars(len(one) * max(0, times))
        elif isinstance(one, list | tuple) and isinstance(times, int) and len(one) * max(0, times) > MOST_ITEMS:
            raise Unbounded(f"it makes a list of {len(one)} times {times} items")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MOST_BITS:
        raise Unbounded("it makes a whole number that is too large")


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MOST_BITS:
        raise Unbounded("it makes a whole number that is too large")


def _check_format(text: str, opens: str, values: Any) -> None:
    if WIDE.search(text):
        raise Unbounded("it formats to a width that is too large, or unknown")
    check_chars(len(text) + text.count(opens) * chars_in(values))


def _format(make: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(make)
    def narrow(value: str, *args: Any, **kwargs: Any) -> Any:
        _check_format(str(value), "%", (args, kwargs))
        return make(value, *args, **kwargs)

    return narrow


def _indent(make: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(make)
    def narrow(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
        check_indent(width)
        check_chars(len(s) + MOST_INDENT * (1 + s.count("\n")))
        return make(s, width, first, blank)

    return narrow


def _sum(values: Iterable[Any], attribute: str | None = None, start: float = 0) -> float:
    """Of numbers alone: lists would be copied at each step."""
    numbers = [*values] if attribute is None else [value[attribute] for value in values]
    if not all(isinstance(number, int | float) for number in (*numbers, start)):
        raise TemplateError("sum adds numbers")
    return sum(numbers, start)


def text_of(value: Any) -> str:
    """A value as a template writes it."""
    return value if isinstance(value, str) else str(sized(value))


def _finalize(value: Any) -> Any:
    """What a template writes, before it becomes a text."""
    return value if isinstance(value, str | int | float) or value is None else sized(value)
