"""Whether two values are the same in type and content, all the way down."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict, deque
from decimal import Decimal
from typing import Any

from langgraph.types import Send
from pydantic import BaseModel

from agentspan.frameworks.langgraph.state.forms_classes import attributes_of


def same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if left is right:
        return True
    if isinstance(left, Decimal):
        return str(left) == str(right)  # A signalling NaN refuses to be compared.
    if isinstance(left, float):
        return float.__repr__(left) == float.__repr__(right) or (math.isnan(left) and math.isnan(right))
    if isinstance(left, complex):
        return same(left.real, right.real) and same(left.imag, right.imag)
    if isinstance(left, dict):
        if isinstance(left, defaultdict) and left.default_factory is not right.default_factory:
            return False
        return same(list(left.items()), list(right.items())) and same_attributes(left, right)
    if isinstance(left, (list, tuple, deque)):
        if isinstance(left, deque) and left.maxlen != right.maxlen:
            return False
        return len(left) == len(right) and all(map(same, left, right)) and same_attributes(left, right)
    if isinstance(left, (set, frozenset)):
        return len(left) == len(right) and all(any(same(ours, theirs) for theirs in right) for ours in left)
    if isinstance(left, BaseModel):
        return (
            same(_fields(left), _fields(right))
            and left.model_fields_set == right.model_fields_set
            and same(left.__pydantic_extra__, right.__pydantic_extra__)
            and same(left.__pydantic_private__, right.__pydantic_private__)
        )
    if isinstance(left, BaseException):
        return same(left.args, right.args) and str(left) == str(right) and same(left.__dict__, right.__dict__)
    if type(left).__eq__ is object.__eq__ or dataclasses.is_dataclass(left) or isinstance(left, Send):
        return same_attributes(left, right)
    return bool(left == right)


def same_attributes(left: Any, right: Any) -> bool:
    ours, theirs = attributes_of(left), attributes_of(right)
    return ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in ours)


def _fields(model: BaseModel) -> dict[str, Any]:
    return {name: held for name, held in model.__dict__.items() if name in type(model).model_fields}
