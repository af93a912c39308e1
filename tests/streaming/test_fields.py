"""What a client is told of a field that is at fault."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from omni.streaming.fields import Fields, problem_of_fields


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


def test_a_kind_at_the_root_is_no_field() -> None:
    shape: TypeAdapter[Any] = TypeAdapter(Annotated[Square | Circle, Field(discriminator="kind")])
    with pytest.raises(ValidationError) as caught:
        shape.validate_python({"kind": "square", "side": 0})
    assert problem_of_fields(caught.value.errors(), tagged=True).param == "side"
