"""`gen` of a reference set: one rule for many references, as templates over the product of dimensions.

    {"key": "g/{{i}}.{{j}}", "url": "{{u}}_{{i}}", "offset": "{{j * 100}}", "length": "100",
     "dimensions": {"i": {"stop": 7}, "j": [0, 2, 5]}}

A rule is read and its first reference rendered when the set is opened, the others when a key is asked for
that it may hold. How many they are is counted before.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, Final, cast

from gpuzarr.errors import LimitError, MetadataError
from gpuzarr.store.references.templates import Names, Template, Value
from gpuzarr.store.references.text import limit_nbytes, too_large

Target = tuple[str, int, int | None]
"""url, offset, length; all of the file where there is no length."""

_LEAST_NBYTES: Final = 64
"""Of memory, for one reference."""
_FURTHEST: Final = 1 << 62


def rules(given: Any, templates: Names, url: str) -> list[Rule]:
    """The rules of a document. `url` names it in messages."""
    if given is None:
        return []
    if not isinstance(given, list):
        raise MetadataError(f"gen of {url} is not a list")
    parsed = []
    for position, one in enumerate(given):
        try:
            parsed.append(Rule(one, templates))
        except (MetadataError, LimitError) as error:
            error.what = f"gen[{position}] of {url}: {error.what}"
            raise
    count = sum(rule.count for rule in parsed)
    if count * _LEAST_NBYTES > limit_nbytes():
        raise too_large(f"gen of {url}, which stands for {count} references,", limit_nbytes())
    return parsed


class Rule:
    """One entry of `gen`. It is spelled out once, by the first thread that asks."""

    def __init__(self, given: Any, templates: Names) -> None:
        if not isinstance(given, dict) or not isinstance(given.get("dimensions"), dict):
            raise MetadataError("not an object with key, url and dimensions")
        if ("offset" in given) != ("length" in given):
            raise MetadataError("offset and length come together")
        self._dimensions = {name: _values(name, one) for name, one in given["dimensions"].items()}
        self.count = prod(map(_count, self._dimensions.values()))
        if twice := self._dimensions.keys() & templates.keys():
            raise MetadataError(f"{', '.join(sorted(twice))} names a dimension and a template")
        numbers = {name for name, values in self._dimensions.items() if _all_whole(values)}
        names = ("key", "url", "offset", "length") if "offset" in given else ("key", "url")
        self._parsed = [Template.parse(_text(name, given.get(name)), numbers) for name in names]
        self._templates = templates
        self._targets: dict[str, Target] | None = None
        self._lock = threading.Lock()
        firsts = {name: values[:1] for name, values in self._dimensions.items()}
        self.first = next(self._rendered(firsts), None) if self.count else None
        """A key and what it stands for."""

    def may_hold(self, key: str) -> bool:
        """False if the ends of the key say that it is not one of these."""
        return self._parsed[0].may_render(key)

    def targets(self) -> dict[str, Target]:
        """What each key stands for."""
        with self._lock:
            if self._targets is None:
                targets: dict[str, Target] = {}
                urls: dict[str, str] = {}
                limit = left = limit_nbytes()
                for key, (url, start, nbytes) in self._rendered(self._dimensions) if self.count else ():
                    kept = urls.setdefault(url, url)
                    left -= len(key) + (len(url) if kept is url else 0)
                    if left < 0:
                        raise too_large("what gen stands for", limit)
                    targets[key] = kept, start, nbytes
                self._targets = targets
            return self._targets

    def _rendered(self, dimensions: Mapping[str, Sequence[Value]]) -> Iterator[tuple[str, Target]]:
        for values in itertools.product(*dimensions.values()):
            names = {**self._templates, **dict(zip(dimensions, values, strict=True))}
            key, url, *numbers = [template.render(names) for template in self._parsed]
            start, nbytes = map(_whole, numbers) if numbers else (0, None)
            yield key, (url, start, nbytes)


def _text(name: str, given: Any) -> str:
    if type(given) is int:
        return str(given)
    if not isinstance(given, str):
        raise MetadataError(f"{name} is no template")
    return given


def _values(name: str, given: Any) -> Sequence[Value]:
    """The values of one dimension: a list, or start, stop and step."""
    if isinstance(given, list):
        if not all(type(one) in (int, str, float) for one in given):
            raise MetadataError(f"dimension {name!r} lists what is neither a number nor text")
        return given
    if isinstance(given, dict) and given.keys() <= {"start", "stop", "step"}:
        numbers = given.get("start", 0), given.get("stop"), given.get("step", 1)
        if all(type(one) is int and abs(one) <= _FURTHEST for one in numbers) and numbers[2]:
            return range(*cast(tuple[int, int, int], numbers))
    raise MetadataError(f"dimension {name!r} is neither a list nor whole numbers start, stop and step")


def _all_whole(values: Sequence[Value]) -> bool:
    return isinstance(values, range) or all(type(one) is int for one in values)


def _count(values: Sequence[Value]) -> int:
    if isinstance(values, range):  # `len` cannot count so far
        return max(-(-(values.stop - values.start) // values.step), 0)
    return len(values)


def _whole(text: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19 or int(digits) > _FURTHEST:
        raise MetadataError(f"{text[:50]!r} is no offset or length in bytes")
    return int(digits)
