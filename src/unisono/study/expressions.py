"""A small, safe language for inclusion rules and derived variables: ``age >= 18 and onset in ["bulbar"]``.

Python's grammar, read with `ast` and compiled from a whitelist to numpy; nothing is ever evaluated as code. Every type
error is found when the study is checked, not at a hospital. Truth has three values (Kleene 1952): true, false and
unknown, where a missing value makes unknown whatever it could change. Arithmetic without a finite answer (1/0, the
logarithm of a negative number) is missing too.
"""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn

import numpy as np

from unisono.errors import StudyError
from unisono.study.document import BooleanVariable, CategoryVariable, ImageVariable, Variable
from unisono.study.problems import did_you_mean
from unisono.study.table import Column, Table

MAX_LENGTH = 1000
"""Characters of an expression."""
MAX_DEPTH = 60
"""Operations within operations; a sum of many terms is as deep as it has terms."""

Kind = Literal["number", "boolean"]
_Run = Callable[[Table], Column]


@dataclass(frozen=True)
class Expression:
    """A checked expression. `variables` are those it reads, each once, in order of appearance."""

    text: str
    variables: tuple[str, ...]
    kind: Kind
    _run: _Run = field(repr=False, compare=False)

    @staticmethod
    def parse(text: str, variables: Mapping[str, Variable]) -> Expression:
        """Read and type-check `text` over the study's `variables`.

        `StudyError` (rule, position, nearest name) if it is wrong.
        """
        return _Parser(text, variables).expression()

    def evaluate(self, table: Table) -> Column:
        """(n,) numbers, or 1 true / 0 false; NaN where unknown. Reads only `variables` of the table."""
        with np.errstate(all="ignore"):  # what is not finite becomes missing
            return np.array(np.broadcast_to(self._run(table), (table.n,)), np.float64)


@dataclass(frozen=True)
class _Typed:
    """A compiled part: its kind, a category's levels or a literal's text, and how to compute it."""

    kind: Literal["number", "boolean", "category", "text"]
    run: _Run
    levels: tuple[str, ...] = ()
    text: str = ""


_FUNCTIONS: dict[str, Callable[..., Column]] = {
    "abs": np.abs, "log": np.log, "exp": np.exp, "sqrt": np.sqrt, "min": np.minimum, "max": np.maximum,
}  # fmt: skip
KNOWN = "known"
"""``known(age)``: the one function whose argument is a variable and not its value."""
_ARITHMETIC: dict[type[ast.operator], Callable[..., Column]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide, ast.Pow: np.power,
}  # fmt: skip
_COMPARISONS: dict[type[ast.cmpop], Callable[..., Column]] = {
    ast.Lt: np.less, ast.LtE: np.less_equal, ast.Gt: np.greater, ast.GtE: np.greater_equal,
    ast.Eq: np.equal, ast.NotEq: np.not_equal,
}  # fmt: skip
_HELP = 'Allowed: variables, numbers, "levels", + - * / **, comparisons, and, or, not, in [...], abs log exp sqrt min max, known(variable).'


class _Parser:
    """One expression's text, from string to `Expression`."""

    def __init__(self, text: str, variables: Mapping[str, Variable]) -> None:
        self.text = text
        self.variables = variables
        self.used: dict[str, None] = {}
        self.line = " ".join(text.split("\n"))
        self.offset = len(self.line) - len(self.line.lstrip())
        self.line = self.line.lstrip()

    def expression(self) -> Expression:
        if len(self.text) > MAX_LENGTH:
            raise StudyError(
                f"An expression has {len(self.text)} characters; at most {MAX_LENGTH} are read.",
                rule="expression-size",
                remedy="Split it: several 'include' rules, or derived variables.",
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about escapes in strings; an unknown level is reported below
                tree = ast.parse(self.line, mode="eval").body
        except SyntaxError as error:
            self._syntax(error.offset)
        except (ValueError, RecursionError, MemoryError):
            self._syntax(None)
        top = self._compile(tree, 0)
        if top.kind not in ("number", "boolean"):
            raise self._refusal(
                tree,
                "The expression is a category, not a number or a yes/no.",
                "expression-type",
                'Compare it: onset == "bulbar".',
            )
        return Expression(self.text, tuple(self.used), "boolean" if top.kind == "boolean" else "number", top.run)

    def _syntax(self, offset: int | None) -> NoReturn:
        words = [name for name in self.variables if keyword.iskeyword(name) and re.search(rf"\b{name}\b", self.line)]
        reserved = [name for name in words if name not in ("and", "or", "not", "in")]
        place = f" near character {offset + self.offset}" if offset else ""
        remedy = f"{reserved[0]!r} is a reserved word; give the variable another name." if reserved else _HELP
        if not reserved and re.search(r"(?<![<>=!])=(?!=)|&|\|", self.line):
            remedy = "Write == for equals, 'and' for both, 'or' for either."
        raise StudyError(f"{self._short()} cannot be read{place}.", rule="expression-syntax", remedy=remedy)

    def _refusal(self, node: ast.AST, what: str, rule: str, remedy: str) -> StudyError:
        column = len(self.line.encode()[: getattr(node, "col_offset", 0)].decode(errors="ignore")) + 1 + self.offset
        raise StudyError(
            f"{what.removesuffix('.')} (at character {column} of {self._short()}).", rule=rule, remedy=remedy
        )

    def _short(self) -> str:
        return repr(self.text if len(self.text) <= 80 else self.text[:77] + "...")

    def _compile(self, node: ast.expr, depth: int) -> _Typed:
        if depth > MAX_DEPTH:
            raise self._refusal(
                node,
                f"More than {MAX_DEPTH} operations within each other.",
                "expression-size",
                "Split it into derived variables.",
            )
        compiled: _Typed
        match node:
            case ast.Constant():
                compiled = self._constant(node)
            case ast.Name():
                compiled = self._name(node)
            case ast.UnaryOp(op=ast.Not()):
                compiled = _not(self._boolean(node.operand, depth))
            case ast.UnaryOp(op=ast.USub()):
                compiled = _number(np.negative, self._number(node.operand, depth))
            case ast.UnaryOp(op=ast.UAdd()):
                compiled = self._number(node.operand, depth)
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                sides = self._number(node.left, depth), self._number(node.right, depth)
                compiled = _number(_ARITHMETIC[type(node.op)], *sides)
            case ast.BoolOp():
                compiled = self._and_or(node, depth)
            case ast.Compare():
                compiled = self._compare(node, depth)
            case ast.Call():
                compiled = self._call(node, depth)
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
                raise self._refusal(node, "'&' and '|' are not used here.", "expression-syntax", "Write 'and' or 'or'.")
            case _:
                what = f"{type(node).__name__} is not part of the expression language."
                raise self._refusal(node, what, "expression-syntax", _HELP)
        return compiled

    def _constant(self, node: ast.Constant) -> _Typed:
        value = node.value
        if isinstance(value, bool):
            return _fixed("boolean", float(value))
        if isinstance(value, str):
            return _Typed("text", _no_value, text=value)
        if isinstance(value, int | float) and abs(value) < 1e300:
            return _fixed("number", float(value))
        raise self._refusal(node, "This constant is no number or level.", "expression-syntax", _HELP)

    def _name(self, node: ast.Name, known: bool = False) -> _Typed:
        name = node.id
        if name not in self.variables:
            if name in ("true", "false"):
                return _fixed("boolean", float(name == "true"))
            remedy = did_you_mean(name, list(self.variables), "variables")
            if any(name in v.levels for v in self.variables.values() if isinstance(v, CategoryVariable)):
                remedy = f'If you mean the level, write it in quotes: "{name}".'
            raise self._refusal(node, f"There is no variable {name!r} in this study.", "known-variables", remedy)
        self.used[name] = None
        variable = self.variables[name]
        if isinstance(variable, ImageVariable) and not known:
            what, remedy = f"{name!r} is an image.", f"Ask only whether there is one: known({name})."
            raise self._refusal(node, what, "expression-type", remedy)
        if isinstance(variable, CategoryVariable):
            return _Typed("category", lambda table: table[name], levels=tuple(variable.levels), text=name)
        return _Typed(
            "boolean" if isinstance(variable, BooleanVariable) else "number", lambda table: table[name], text=name
        )

    def _number(self, node: ast.expr, depth: int) -> _Typed:
        """A part that must be a number; a yes/no counts as 1 or 0, so that ``diabetes + stroke >= 2`` works."""
        part = self._compile(node, depth + 1)
        if part.kind in ("category", "text"):
            raise self._refusal(
                node, f"A {part.kind} stands where a number must.", "expression-type", 'Compare it: onset == "bulbar".'
            )
        return part

    def _boolean(self, node: ast.expr, depth: int) -> _Typed:
        part = self._compile(node, depth + 1)
        if part.kind != "boolean":
            raise self._refusal(
                node, f"A {part.kind} stands where a yes/no must.", "expression-type", "Compare it, as in age >= 18."
            )
        return part

    def _and_or(self, node: ast.BoolOp, depth: int) -> _Typed:
        parts = [self._boolean(value, depth) for value in node.values]
        joined = parts[0]
        for part in parts[1:]:
            joined = _and(joined, part) if isinstance(node.op, ast.And) else _not(_and(_not(joined), _not(part)))
        return joined

    def _call(self, node: ast.Call, depth: int) -> _Typed:
        name = node.func.id if isinstance(node.func, ast.Name) else "this"
        if name == KNOWN:
            return self._known(node)
        if name not in _FUNCTIONS:
            raise self._refusal(
                node,
                f"There is no function {name!r}.",
                "known-functions",
                did_you_mean(name, [*_FUNCTIONS, KNOWN], "functions"),
            )
        several = name in ("min", "max")
        if node.keywords or (len(node.args) < 2 if several else len(node.args) != 1):
            needs = "two or more numbers" if several else "one number"
            raise self._refusal(
                node, f"{name} takes {needs}.", "expression-syntax", f"Write {name}({'a, b' if several else 'a'})."
            )
        parts = [self._number(argument, depth) for argument in node.args]
        if not several:
            return _number(_FUNCTIONS[name], *parts)
        least = parts[0]
        for part in parts[1:]:
            least = _number(_FUNCTIONS[name], least, part)
        return least

    def _known(self, node: ast.Call) -> _Typed:
        """Whether a variable has a value: never unknown itself."""
        if node.keywords or len(node.args) != 1 or not isinstance(node.args[0], ast.Name):
            raise self._refusal(node, "known takes one variable.", "expression-syntax", "Write known(age).")
        part = self._name(node.args[0], known=True)
        return _Typed("boolean", lambda table: (~np.isnan(part.run(table))).astype(np.float64))

    def _compare(self, node: ast.Compare, depth: int) -> _Typed:
        """``a < b <= c`` is ``a < b and b <= c``; ``in`` and ``not in`` take a list of constants."""
        left_node, left = node.left, self._compile(node.left, depth + 1)
        result: _Typed | None = None
        for operator, right_node in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, ast.In | ast.NotIn):
                if len(node.ops) > 1:
                    raise self._refusal(
                        node, "'in' stands in a chain of comparisons.", "expression-syntax", "Join the two with 'and'."
                    )
                test = self._membership(left_node, left, right_node, depth)
                return _not(test) if isinstance(operator, ast.NotIn) else test
            if type(operator) not in _COMPARISONS:
                raise self._refusal(
                    right_node, "'is' is not a comparison here.", "expression-syntax", "Write == or !=."
                )
            right = self._compile(right_node, depth + 1)
            test = self._pair(operator, left_node, left, right_node, right)
            result = test if result is None else _and(result, test)
            left_node, left = right_node, right
        assert result is not None
        return result

    def _pair(
        self, operator: ast.cmpop, left_node: ast.expr, left: _Typed, right_node: ast.expr, right: _Typed
    ) -> _Typed:
        compare = _COMPARISONS[type(operator)]
        if left.kind in ("number", "boolean") and right.kind in ("number", "boolean"):
            return _test(compare, left.run, right.run)
        if not isinstance(operator, ast.Eq | ast.NotEq) and "category" in (left.kind, right.kind):
            raise self._refusal(
                left_node, "Levels of a category have no order.", "expression-type", 'Use ==, != or in ["...", "..."].'
            )
        if left.kind == "text":
            left_node, left, right_node, right = right_node, right, left_node, left
        if left.kind == "category" and right.kind == "text":
            return _test(compare, left.run, _constant_run(self._level(right_node, left, right.text)))
        if left.kind == "category" and right.kind == "category" and left.levels == right.levels:
            return _test(compare, left.run, right.run)
        what = f"A {left.kind} and a {right.kind} cannot be compared."
        if left.kind == right.kind == "category":
            what = "Two categories with different levels cannot be compared."
        raise self._refusal(
            right_node,
            what,
            "expression-type",
            "Compare numbers with numbers, and a category with one of its levels in quotes.",
        )

    def _level(self, node: ast.expr, category: _Typed, text: str) -> float:
        """The code of a level of `category`."""
        if text not in category.levels:
            remedy = did_you_mean(text, category.levels, "levels")
            raise self._refusal(node, f"{text[:60]!r} is no level of {category.text!r}.", "known-levels", remedy)
        return float(category.levels.index(text))

    def _membership(self, left_node: ast.expr, left: _Typed, right_node: ast.expr, depth: int) -> _Typed:
        if not isinstance(right_node, ast.List) or not right_node.elts:
            raise self._refusal(
                right_node,
                "'in' needs a list of values.",
                "expression-syntax",
                'Write it as in ["a", "b"] or in [1, 2].',
            )
        if left.kind not in ("number", "category"):
            raise self._refusal(
                left_node,
                f"A {left.kind} cannot be 'in' a list.",
                "expression-type",
                "Write a number or a category before 'in'.",
            )
        codes: list[float] = []
        for element in right_node.elts:
            part = self._compile(element, depth + 1)
            if left.kind == "category" and part.kind == "text":
                codes.append(self._level(element, left, part.text))
            elif left.kind == "number" and part.kind == "number" and _literal(element):
                codes.append(float(part.run(_NO_TABLE)))
            else:
                kind = "levels in quotes" if left.kind == "category" else "numbers"
                raise self._refusal(
                    element, f"The list may hold only {kind}.", "expression-type", f"Write {kind}, separated by commas."
                )
        wanted = np.array(codes)

        def run(table: Table) -> Column:
            values = left.run(table)
            return _known(np.isin(values, wanted).astype(np.float64), values)

        return _Typed("boolean", run)


_NO_TABLE = Table({}, 0)


def _literal(node: ast.expr) -> bool:
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


def _no_value(_: Table) -> Column:
    raise AssertionError("a text literal has no value of its own")  # every use is refused or replaced by a level's code


def _constant_run(value: float) -> _Run:
    column: Column = np.array(value)
    return lambda _: column


def _fixed(kind: Literal["number", "boolean"], value: float) -> _Typed:
    return _Typed(kind, _constant_run(value))


def _known(result: Column, *inputs: Column) -> Column:
    """`result`, missing where any input is missing."""
    for column in inputs:
        gap = np.isnan(column)
        if gap.any():
            result = np.where(gap, np.nan, result)
    return result


def _number(function: Callable[..., Column], *parts: _Typed) -> _Typed:
    def run(table: Table) -> Column:
        inputs = [part.run(table) for part in parts]
        result = np.asarray(function(*inputs), np.float64)
        return _known(
            np.where(np.isfinite(result), result, np.nan), *inputs
        )  # NaN ** 0 is 1 in IEEE 754, and missing here

    return _Typed("number", run)


def _test(compare: Callable[..., Column], left: _Run, right: _Run) -> _Typed:
    def run(table: Table) -> Column:
        a, b = left(table), right(table)
        return _known(np.asarray(compare(a, b), np.float64), a, b)

    return _Typed("boolean", run)


def _not(part: _Typed) -> _Typed:
    return _Typed("boolean", lambda table: 1.0 - part.run(table))


def _and(left: _Typed, right: _Typed) -> _Typed:
    """Kleene's and: false if either is false, else unknown if either is unknown."""

    def run(table: Table) -> Column:
        a, b = left.run(table), right.run(table)
        return np.where((a == 0) | (b == 0), 0.0, a * b)

    return _Typed("boolean", run)
