from __future__ import annotations

import pytest

from agentspan.agents.docstrings import parse_docstring

GOOGLE = """Refund an order.

Use it only after the order was found.

Args:
    order_id: The order, as
        the customer wrote it.
    amount (float): Euros: not cents.
    **extra: More.

Returns:
    A receipt.

Note:
    Never twice.
"""

NUMPY = """Refund an order.

Parameters
----------
order_id : str
    The order, as
    the customer wrote it.
amount, fee : float, optional
    Euros.
reason
    Why.

Returns
-------
str
    A receipt.
"""

REST = """Refund an order.

:param order_id: The order, as
    the customer wrote it.
:param float amount: Euros.
:type amount: float
:return: A receipt.
:raises ValueError: Never.
"""


def test_google_style() -> None:
    said = parse_docstring(GOOGLE)
    assert said.arguments == {
        "order_id": "The order, as the customer wrote it.",
        "amount": "Euros: not cents.",
        "extra": "More.",
    }
    assert said.description == "Refund an order.\n\nUse it only after the order was found.\n\nNote:\n    Never twice."


def test_numpy_style() -> None:
    said = parse_docstring(NUMPY)
    assert said.arguments == {
        "order_id": "The order, as the customer wrote it.",
        "amount": "Euros.",
        "fee": "Euros.",
        "reason": "Why.",
    }
    assert said.description == "Refund an order."


def test_rest_style() -> None:
    said = parse_docstring(REST)
    assert said.arguments == {"order_id": "The order, as the customer wrote it.", "amount": "Euros."}
    assert said.description == "Refund an order."


@pytest.mark.parametrize("text", [None, "", "   \n  "])
def test_no_docstring_is_empty(text: str | None) -> None:
    assert parse_docstring(text).description == ""
    assert parse_docstring(text).arguments == {}


@pytest.mark.parametrize(
    "text",
    [
        "One line.",
        "Do.\nUsage:\ncall it",
        "Steps:\n- first: do this\n- second: do that",
        "See http://example.com: it explains",
    ],
)
def test_text_that_fits_no_style_stays_in_the_description(text: str) -> None:
    assert parse_docstring(text).description == text


def test_a_section_ends_where_the_indent_ends() -> None:
    said = parse_docstring("Do.\n\nArgs:\n    a: First.\n\nAfterwards it is done.")
    assert said.arguments == {"a": "First."}
    assert said.description == "Do.\n\nAfterwards it is done."
