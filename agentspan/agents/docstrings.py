"""What a docstring says of a function and of its arguments, in Google, numpy or reST style.

A reader, not a validator: text that fits no style stays in the description, and nothing here ever fails.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

_ARGUMENTS = {"args", "arguments", "parameters", "params", "keyword args", "keyword arguments", "other parameters"}
# Sections that say nothing to a model that wants to call the function.
_SKIPPED = {"returns", "return", "yields", "yield", "raises", "raise", "attributes", "references", "see also", "warns"}
# Sections that may tell it when to call: they stay in the description.
_KEPT = {"note", "notes", "example", "examples", "warning", "warnings"}

_GOOGLE_HEAD = re.compile(r"^([A-Za-z][A-Za-z ]*):\s*$")
_UNDERLINE = re.compile(r"^-{3,}\s*$")
_GOOGLE_ITEM = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_NUMPY_ITEM = re.compile(r"^\*{0,2}(\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?$")
_REST_PARAM = re.compile(r"^:(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)$")
_REST_OTHER = re.compile(r"^:\w+(?:\s[^:]*)?:")


@dataclass(frozen=True, slots=True)
class Docstring:
    """A docstring taken apart."""

    description: str = ""
    """Everything before and between the sections on arguments, results and errors."""
    arguments: dict[str, str] = field(default_factory=dict)
    """Description of each argument that has one."""


def parse_docstring(text: str | None) -> Docstring:
    """Take a docstring apart. Without one, everything is empty."""
    if not text or not text.strip():
        return Docstring()
    lines = inspect.cleandoc(text).splitlines()
    description: list[str] = []
    arguments: dict[str, str] = {}
    index = 0
    while index < len(lines):
        kind, after = _section_at(lines, index)
        if kind is None:
            index = _read_line(lines, index, description, arguments)
            continue
        numpy = after - index == 2
        end = _section_end(lines, after, numpy=numpy)
        if kind == "arguments":
            arguments.update((_numpy_items if numpy else _google_items)(lines[after:end]))
        elif kind == "kept":
            description.extend(lines[index:end])
        index = end
    return Docstring(description=_tidy(description), arguments={name: said for name, said in arguments.items() if said})


def _section_at(lines: list[str], index: int) -> tuple[str | None, int]:
    """The kind of section that starts here, and the line its body starts at."""
    line = lines[index]
    if index + 1 < len(lines) and _UNDERLINE.match(lines[index + 1]):
        title, after = line.strip(), index + 2
    elif (head := _GOOGLE_HEAD.match(line)) is not None:
        title, after = head.group(1), index + 1
    else:
        return None, index
    for kind, titles in (("arguments", _ARGUMENTS), ("skipped", _SKIPPED), ("kept", _KEPT)):
        if title.lower() in titles:
            return kind, after
    return None, index


def _section_end(lines: list[str], start: int, *, numpy: bool) -> int:
    """A Google section ends at the first unindented line, a numpy section at the next heading."""
    for index in range(start, len(lines)):
        line = lines[index]
        if not line.strip():
            continue
        if _section_at(lines, index)[0] is not None or (not numpy and not line[0].isspace()):
            return index
    return len(lines)


def _read_line(lines: list[str], index: int, description: list[str], arguments: dict[str, str]) -> int:
    """Read one line outside any section (with what a reST field continues on) and say where the next one is."""
    line = lines[index]
    parameter = _REST_PARAM.match(line)
    if parameter is None and not _REST_OTHER.match(line):
        description.append(line)
        return index + 1
    end = index + 1
    while end < len(lines) and lines[end][:1].isspace():
        end += 1
    if parameter is not None:
        arguments[parameter.group(1)] = _joined([parameter.group(2), *lines[index + 1 : end]])
    return end


def _google_items(lines: list[str]) -> dict[str, str]:
    return _items(lines, _GOOGLE_ITEM, first=2)


def _numpy_items(lines: list[str]) -> dict[str, str]:
    return _items(lines, _NUMPY_ITEM, first=None)


def _items(lines: list[str], pattern: re.Pattern[str], *, first: int | None) -> dict[str, str]:
    """Entries start at the section's own indent; deeper lines go on with the entry above them."""
    body = [line for line in lines if line.strip()]
    indent = min((len(line) - len(line.lstrip()) for line in body), default=0)
    items: dict[str, list[str]] = {}
    current: list[str] = []
    for line in body:
        match = pattern.match(line[indent:])
        if match is None:
            current.append(line)
            continue
        current = [match.group(first)] if first is not None else []
        for name in match.group(1).split(","):
            items[name.strip().lstrip("*")] = current
    return {name: _joined(said) for name, said in items.items()}


def _joined(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines if line.strip())


def _tidy(lines: list[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).strip()
