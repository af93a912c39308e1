"""What a client is told of a field that is at fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from omni.streaming.fields import Body, Fields, parse, problem_of_fields
from omni.streaming.notices import MOST_PATH, MOST_TOLD, Notices, current
from omni.streaming.problems import Problem


class Square(Fields):
    kind: Literal["square"]
    side: Annotated[int, Field(ge=1)]


class Circle(Fields):
    kind: Literal["circle"]
    radius: float


class Drawing(Fields):
    content: list[Annotated[Square | Circle, Field(discriminator="kind")]]


@pytest.mark.parametrize(
    ("value", "param", "code"),
    [
        ({"content": [{"kind": "square", "side": 0}]}, "content[0].side", "invalid_value"),
        ({"content": [{"kind": "square", "side": "1"}]}, "content[0].side", "invalid_type"),
        ({"content": [{"kind": "circle"}]}, "content[0].radius", "missing_required_parameter"),
        ({"content": [{"kind": "star"}]}, "content[0].kind", "invalid_value"),
        ({"content": [{}]}, "content[0].kind", "missing_required_parameter"),
        ({"content": [5]}, "content[0]", "invalid_type"),
        ({"content": {}}, "content", "invalid_type"),
        ({"content": [], "a\ud800": 1}, None, "invalid_json"),
        ({}, "content", "missing_required_parameter"),
        ([], None, "invalid_json"),
    ],
)
def test_the_field_at_fault_is_named_by_its_path(value: Any, param: str | None, code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate(value)
    problem = problem_of_fields(caught.value.errors())
    assert (problem.status, problem.param, problem.code) == (400, param, code)
    assert problem.message.encode() and len(problem.message) < 500


class Brush(Fields):
    taken = frozenset({"brand"})
    undone: ClassVar[Mapping[str, tuple[object, ...]]] = {"width": (1, "thin"), "wet": (False,), "tip": ()}
    color: str | None = None


class Picture(Body):
    content: list[Annotated[Square | Circle, Field(discriminator="kind")]] = Field(default_factory=list)
    brush: Brush | None = None


@pytest.fixture
def notices() -> Iterator[Notices]:
    token = current.set(Notices())
    found = current.get()
    assert found
    yield found
    current.reset(token)


SQUARE = {"kind": "square", "side": 1}


@pytest.mark.parametrize(
    ("value", "ignored"),
    [
        ({}, []),
        ({"frame": None, "brush": {"wood": None, "color": None, "tip": None}}, []),
        ({"frame": 1, "brush": {"wood": "oak", "brand": 5}}, ["frame", "brush.wood"]),
        ({"content": [SQUARE, {**SQUARE, "name": "x", "at": {"x": 1}}]}, ["content[1].name", "content[1].at"]),
        ({"brush": {"width": 1}}, []),
        ({"brush": {"width": 1.0, "wet": False}}, []),
        ({"brush": {"width": "thin"}}, []),
        ({"\u2603" * 999: 1}, ["\u2603" * MOST_PATH]),
        ({"model_fields": 1, "taken": 2}, ["model_fields", "taken"]),
    ],
)
def test_what_nobody_knows_is_told_by_its_path(notices: Notices, value: Any, ignored: list[str]) -> None:
    picture = Picture.model_validate(value)
    assert notices.ignored == ignored
    assert not picture.model_extra and picture.model_dump().keys() == {"content", "brush"}


@pytest.mark.parametrize("brush", [{"width": 2}, {"width": True}, {"wet": 0}, {"wet": True}, {"tip": False}, {"tip": {}}])
def test_what_would_change_the_answer_is_refused(notices: Notices, brush: Any) -> None:
    with pytest.raises(Problem) as caught:
        Picture.model_validate({"brush": brush})
    assert (caught.value.param, caught.value.code) == (f"brush.{next(iter(brush))}", "unsupported_parameter")


def test_many_are_told_in_part(notices: Notices) -> None:
    Picture.model_validate({f"field{i}": i for i in range(1000)})
    assert len(notices.ignored) == MOST_TOLD + 1 and notices.ignored[-1] == "..."


def test_a_strict_server_refuses_the_first(notices: Notices) -> None:
    notices.strict = True
    with pytest.raises(Problem, match=r"brush\.wood is not known"):
        Picture.model_validate({"brush": {"wood": 1}})


def test_parts_of_a_tree_are_told_below_their_place(notices: Notices) -> None:
    parse(Brush, {"wood": 1}, "session.brush")
    assert notices.ignored == ["session.brush.wood"]


def test_a_kind_at_the_root_is_no_field() -> None:
    shape: TypeAdapter[Any] = TypeAdapter(Annotated[Square | Circle, Field(discriminator="kind")])
    with pytest.raises(ValidationError) as caught:
        shape.validate_python({"kind": "square", "side": 0})
    assert problem_of_fields(caught.value.errors(), tagged=True).param == "side"
