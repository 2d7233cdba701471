"""Answers that may be large: encoded off the event loop, and in parts.

The JSON encoder holds the GIL, so another thread alone is not enough: 18 MB in one go would stop every stream for a
second.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, cast

from starlette.responses import Response

from gpt2.serve.faults import json_bytes

_MOST_VALUES = 1000  # encoded at a time: about a millisecond


async def json_answer(value: object) -> Response:
    """An answer in JSON; encoded off the event loop if it is large."""
    if _count(value, _MOST_VALUES) <= _MOST_VALUES:
        return _response(json_bytes(value))
    return await large_answer(lambda: value)


async def large_answer(make: Callable[[], object]) -> Response:
    """An answer of what `make` returns; made and encoded off the event loop."""
    return _response(await asyncio.to_thread(lambda: b"".join(json_parts(make()))))


def json_parts(value: object) -> Iterator[bytes]:
    """`json_bytes` in parts, none of which takes long to make."""
    if _count(value, _MOST_VALUES) <= _MOST_VALUES:
        yield json_bytes(value)
        return
    is_object = isinstance(value, dict)
    opening, end = (b"{", b"}") if is_object else (b"[", b"]")
    for group in _groups(value):
        yield opening
        if len(group) > 1:
            yield json_bytes(dict(group) if is_object else [item for _, item in group])[1:-1]
        else:
            [(key, item)] = group
            if is_object:
                yield json_bytes(str(key)) + b":"
            yield from json_parts(item)
        opening = b","
    yield end


def _groups(value: object) -> Iterator[list[tuple[object, object]]]:
    """The items of a list or object in order, in groups small enough to encode at a time."""
    group: list[tuple[object, object]] = []
    n_values = 0
    for pair in _items(value):
        n = _count(pair[1], _MOST_VALUES)
        if group and n_values + n > _MOST_VALUES:
            yield group
            group, n_values = [], 0
        group.append(pair)
        n_values += n
    yield group


def _items(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, dict):
        yield from cast("dict[Any, Any]", value).items()
    elif isinstance(value, list | tuple):
        yield from enumerate(cast("list[Any]", value))


def _count(value: object, most: int) -> int:
    """How many values there are in it, itself included; stops counting soon after `most`."""
    n = 1
    for _, item in _items(value):
        if n > most:
            break
        n += _count(item, most - n)
    return n


def _response(body: bytes) -> Response:
    return Response(body, media_type="application/json")
