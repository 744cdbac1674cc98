"""`{{…}}` in reference sets: names, numbers, text, arithmetic, and calls of templates.

    "gen_{{c}}.bin"                a template with an argument
    "{{u(c='blob')}}_{{i + 1}}"    a call of it, and arithmetic on a dimension

The specification has Jinja render these. That is a programming language; what is here is the part of it that
reference sets use, and nothing runs that is not listed. An expression that Jinja would read otherwise than
Python (powers of powers, a minus before one) is refused, not guessed. Numbers, texts and nesting are bounded.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

from gpuzarr.errors import LimitError, MetadataError, UnsupportedError

Value = int | float | str
Names = Mapping[str, "Value | Template"]
_Run = Callable[[Names], Value]

LONGEST: Final = 1 << 16
"""Characters that a template may render to: none is a longer key or URL."""
_LONGEST_EXPRESSION: Final = 1000
_DEEPEST: Final = 50
_LARGEST: Final = 1 << 63
_LARGEST_POWER: Final = 63
_ARITHMETIC: Final[dict[type[ast.operator], Callable[[int | float, int | float], int | float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True, slots=True)
class Template:
    """Text with expressions in it, parsed."""

    text: str
    parts: tuple[str | _Run, ...] = ()
    literal: bool = True
    """Nothing in it is to be rendered: it is its text."""
    numeric_tail: bool = False
    """What it renders to ends with a digit."""

    @classmethod
    def parse(cls, text: str, numbers: Collection[str] = ()) -> Template:
        """`numbers`: names that stand for whole numbers. What is no template is a MetadataError, what only
        Jinja can do an UnsupportedError."""
        parts: list[str | _Run] = []
        at, tail = 0, False
        while (begin := text.find("{{", at)) >= 0:
            end = text.find("}}", begin)
            if end < 0:
                raise MetadataError(f"template {text[:200]!r} has a {{{{ without its }}}}")
            inside = text[begin + 2 : end]
            tree, run = _parsed(inside)
            if begin > at:
                parts.append(text[at:begin])
            parts.append(run)
            at = end + 2
            tail = at == len(text) and _is_whole(tree, numbers)
        if at < len(text):
            parts.append(text[at:])
        if parts and any("{%" in part or "{#" in part for part in parts if isinstance(part, str)):
            raise UnsupportedError(f"template {text[:200]!r} holds a statement or a comment of Jinja's")
        literal = all(isinstance(part, str) for part in parts)
        return cls(text, tuple(parts), literal, tail)

    def may_render(self, text: str) -> bool:
        """False if it can be seen from its ends that this does not render to `text`."""
        if self.literal:
            return text == self.text
        first, last = self.parts[0], self.parts[-1]
        if isinstance(first, str) and not text.startswith(first):
            return False
        if isinstance(last, str):
            return text.endswith(last)
        return not self.numeric_tail or text[-1:].isdigit()

    def render(self, names: Names) -> str:
        """The text with every expression's value in its place. Texts that grow beyond all use are a
        LimitError, expressions that cannot be computed a MetadataError."""
        if self.literal:
            return self.text
        rendered = ""
        try:
            for part in self.parts:
                rendered += part if isinstance(part, str) else str(part(names))
                if len(rendered) > LONGEST:
                    raise _too_long()
        except (ArithmeticError, TypeError, ValueError) as error:
            if isinstance(error, MetadataError):
                raise
            raise MetadataError(f"template {self.text[:200]!r} cannot be computed: {error}") from None
        return rendered


@lru_cache(1024)
def _parsed(text: str) -> tuple[ast.expr, _Run]:
    """The expression between two pairs of braces, and a function that computes it. A set has few, often."""
    if len(text) > _LONGEST_EXPRESSION:
        raise LimitError(f"a template holds an expression of {len(text)} characters")
    if text[:1] in ("-", "+") or text[-1:] in ("-", "+") or "\\" in text:
        # To Jinja these signs ask for white space to be removed.
        raise UnsupportedError(f"expression {text!r} begins or ends with a sign, or holds a backslash")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise MetadataError(f"{text!r} is no expression: {error}") from None
    return tree, _bound(tree, 0)


def _is_whole(tree: ast.expr, numbers: Collection[str]) -> bool:
    """Whether an expression is a whole number if `numbers` are."""
    if isinstance(tree, ast.BinOp):
        closed = not isinstance(tree.op, (ast.Div, ast.Pow))
        return closed and _is_whole(tree.left, numbers) and _is_whole(tree.right, numbers)
    if isinstance(tree, ast.Name):
        return tree.id in numbers
    return isinstance(tree, ast.Constant) and type(tree.value) is int


def _bound(tree: ast.expr, depth: int) -> _Run:
    """A function that computes the expression."""
    if depth > _DEEPEST:
        raise LimitError("an expression in a template is nested too deep")
    deeper = depth + 1
    match tree:
        case ast.Constant(value=int() | float() | str() as value) if not isinstance(value, bool):
            return lambda names: value
        case ast.Name(id=name):
            return partial(_named, name)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            if isinstance(operand, ast.BinOp) and isinstance(operand.op, ast.Pow):
                raise UnsupportedError("a sign before a power means two things", hint="write 0 - 2 ** 3")
            return partial(_signed, isinstance(sign, ast.USub), _bound(operand, deeper))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            if isinstance(op, ast.Pow) and isinstance(right, ast.BinOp) and isinstance(right.op, ast.Pow):
                raise UnsupportedError("a power of a power means two things", hint="write (2 ** 3) ** 2")
            return partial(_computed, type(op), _bound(left, deeper), _bound(right, deeper))
        case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords):
            given = {one.arg: _bound(one.value, deeper) for one in keywords if one.arg is not None}
            if len(given) != len(keywords):
                raise UnsupportedError(f"template {name} is called with **")
            return partial(_called, name, given)
    raise UnsupportedError(
        f"a template holds what Python calls {type(tree).__name__}",
        hint="names, numbers, text, + - * / // % **, and calls of templates like u(c='x') are understood",
    )


def _named(name: str, names: Names) -> Value:
    try:
        value = names[name]
    except KeyError:
        raise MetadataError(
            f"nothing is called {name!r} in this template",
            hint=f"there is {', '.join(sorted(names)[:8])}" if names else None,
        ) from None
    if isinstance(value, Template):
        if not value.literal:
            raise MetadataError(f"template {name} takes arguments, and gets none here")
        return value.text
    return value


def _signed(negative: bool, operand: _Run, names: Names) -> Value:
    value = operand(names)
    if isinstance(value, str):
        raise TypeError("a sign before text")
    return -value if negative else value


def _computed(kind: type[ast.operator], left: _Run, right: _Run, names: Names) -> Value:
    one, other = left(names), right(names)
    if isinstance(one, str) or isinstance(other, str):
        if kind is ast.Add and isinstance(one, str) and isinstance(other, str):
            if len(one) + len(other) > LONGEST:
                raise _too_long()
            return one + other
        raise TypeError("arithmetic with text")
    if kind is ast.Pow and one < 0:  # Jinja forgets the parentheses around numbers that it computed itself
        raise UnsupportedError("a power of a negative number means two things")
    if kind is ast.Pow and abs(other) > _LARGEST_POWER:
        raise LimitError(f"a template computes a power of {other}")
    value = _ARITHMETIC[kind](one, other)
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise LimitError("a template computes a number of more than 63 bits")
    return value


def _called(name: str, given: dict[str, _Run], names: Names) -> Value:
    """A template with its arguments, which are all that it knows: so none can name itself."""
    template = names.get(name)
    if not isinstance(template, Template) or template.literal:
        raise MetadataError(f"{name!r} is called, and is no template with arguments")
    return template.render({argument: value(names) for argument, value in given.items()})


def _too_long() -> LimitError:
    return LimitError(f"a template renders to more than {LONGEST} characters")
