"""The small changes that a source file can suffer, each an edit of a few characters.

They are made from the file's syntax tree, and keep the rest of the text as it is: a change is shown as
two lines. What is left out, because the change says nothing about the tests: annotations, decorators and
the arguments of a class, assertions, docstrings and other strings, f-strings, calls of a logger, ``zip``'s
``strict``, and all that does not compile.
"""

import ast
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

_COMPARISONS: Final[dict[type[ast.cmpop], tuple[tuple[str, str, str], ...]]] = {
    ast.Lt: (("<", "<=", "boundary"), ("<", ">", "comparison")),
    ast.LtE: (("<=", "<", "boundary"), ("<=", ">=", "comparison")),
    ast.Gt: ((">", ">=", "boundary"), (">", "<", "comparison")),
    ast.GtE: ((">=", ">", "boundary"), (">=", "<=", "comparison")),
    ast.Eq: (("==", "!=", "comparison"),),
    ast.NotEq: (("!=", "==", "comparison"),),
    ast.Is: (("is", "is not", "comparison"),),
    ast.IsNot: (("is not", "is", "comparison"),),
    ast.In: (("in", "not in", "comparison"),),
    ast.NotIn: (("not in", "in", "comparison"),),
}
_ARITHMETIC: Final[dict[type[ast.operator], tuple[str, str]]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
}
_OPPOSITES: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
#: Methods that narrow or extend a query; without one the query still runs.
_CLAUSES: Final = frozenset({"where", "with_for_update", "order_by", "limit", "distinct", "having"})
_LOGGERS: Final = frozenset({"log", "_log", "logger", "_logger"})
#: First and last byte of the text that is replaced, the text in its place, and the kind of change.
_Edit: TypeAlias = tuple[int, int, str, str]
_EXITS: Final = (ast.Raise, ast.Return, ast.Continue, ast.Break)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A source file with one small change.

    Guarantees:
        ``key`` names the change by what it does and not by where it stands: lines added elsewhere keep it.
    """

    path: str
    #: Qualified name of the function or class, or "<module>".
    function: str
    #: The kind of change.
    operator: str
    #: The lines that the edit touches, with single spaces, before and after.
    before: str
    after: str
    line: int
    #: Place of the edit in the source, in bytes, and the text that it puts there.
    start: int
    end: int
    replacement: str
    #: Counts alike changes of one function, from 1.
    occurrence: int = 1

    @property
    def change(self) -> str:
        """Return the change as one line."""
        suffix = "" if self.occurrence == 1 else f"  #{self.occurrence}"
        return f"{self.before}  =>  {self.after}{suffix}"

    @property
    def key(self) -> str:
        """Return the name of the change."""
        return f"{self.path}::{self.function}: {self.change}"

    def apply(self, source: str) -> str:
        """Return the changed source."""
        encoded = source.encode()
        return (encoded[: self.start] + self.replacement.encode() + encoded[self.end :]).decode()

    def compiles(self, source: str) -> bool:
        """Return whether the changed source is Python at all."""
        try:
            compile(self.apply(source), self.path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return False
        return True


def mutants(path: str, source: str) -> list[Mutant]:
    """Return every small change of a file, in the order of its text; few of them do not compile."""
    found = _Finder(path, source).all()
    seen: Counter[tuple[str, str, str]] = Counter()
    numbered = []
    for mutant in sorted(found, key=lambda each: (each.start, each.end, each.replacement)):
        alike = (mutant.function, mutant.before, mutant.after)
        seen[alike] += 1
        numbered.append(replace(mutant, occurrence=seen[alike]))
    return numbered


class _Finder:
    def __init__(self, path: str, source: str) -> None:
        self._path = path
        self._source = source.encode()
        self._offsets = [0]
        for line in self._source.splitlines(keepends=True):
            self._offsets.append(self._offsets[-1] + len(line))
        self._tree = ast.parse(source)

    def all(self) -> list[Mutant]:
        return [mutant for mutant in self._walk(self._tree.body, "<module>") if mutant.before != mutant.after]

    def _walk(self, nodes: list[ast.stmt], function: str) -> Iterator[Mutant]:
        for node in nodes:
            yield from self._visit(node, function)

    def _visit(self, node: ast.AST, function: str) -> Iterator[Mutant]:
        if self._is_left_out(node):
            return
        for start, end, text, operator in self._edits(node, function):
            yield self._mutant(function, operator, start, end, text)
        inner = function
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = node.name if function == "<module>" else f"{function}.{node.name}"
        for child in _children(node):
            yield from self._visit(child, inner)

    def _mutant(self, function: str, operator: str, start: int, end: int, text: str) -> Mutant:
        first = self._source.rfind(b"\n", 0, start) + 1
        last = self._source.find(b"\n", end)
        last = len(self._source) if last == -1 else last
        before = self._source[first:last].decode()
        after = (self._source[first:start] + text.encode() + self._source[end:last]).decode()
        line = self._source.count(b"\n", 0, start) + 1
        return Mutant(
            self._path, function, operator, _one_line(before), _one_line(after), line, start, end, text
        )

    def _span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        if node.end_lineno is None or node.end_col_offset is None:
            raise ValueError("The node has no place in the source.")
        start = self._offsets[node.lineno - 1] + node.col_offset
        return start, self._offsets[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self._span(node)
        return self._source[start:end].decode()

    def _is_left_out(self, node: ast.AST) -> bool:
        match node:
            case ast.JoinedStr() | ast.Import() | ast.ImportFrom() | ast.Assert():
                return True
            case ast.Expr(value=ast.Constant()):
                return True
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))):
                return name in _LOGGERS
            case ast.Expr(value=ast.Call(func=ast.Name(id="assert_never"))):
                return True
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                return True
            case ast.keyword(arg="strict", value=ast.Constant()):
                return True
            case _:
                return False

    def _edits(self, node: ast.AST, function: str) -> Iterator[_Edit]:
        if isinstance(node, ast.stmt):
            yield from self._statement_edits(node, function)
        elif isinstance(node, ast.expr):
            yield from self._expression_edits(node)
        elif isinstance(node, ast.ExceptHandler):
            yield from self._handler_edits(node)

    def _statement_edits(self, node: ast.stmt, function: str) -> Iterator[_Edit]:
        start, end = self._span(node)
        match node:
            case ast.If(test=test, body=body, orelse=[]):
                is_guard = isinstance(body[-1], _EXITS)
                value, operator = ("False", "guard dropped") if is_guard else ("True", "condition dropped")
                yield (*self._span(test), value, operator)
            case ast.Expr(value=ast.Await() | ast.Call() as value):
                yield start, end, "pass", "call removed"
                if isinstance(value, ast.Await):
                    yield start, end, self._swallowed(node), "error swallowed"
            case ast.AugAssign(op=op, target=target, value=value):
                yield start, end, "pass", "assignment removed"
                yield from self._operator_edit(op, self._span(target)[1], self._span(value)[0], "arithmetic")
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Delete():
                if not function.endswith(("__init__", "__post_init__")):
                    yield start, end, "pass", "assignment removed"
            case ast.Raise():
                yield start, end, "pass", "raise removed"
            case _:
                pass

    def _expression_edits(self, node: ast.expr) -> Iterator[_Edit]:
        match node:
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                for before, op, after in zip([left, *comparators], ops, comparators, strict=False):
                    for old, new, operator in _COMPARISONS[type(op)]:
                        yield from self._token_edit(
                            old, new, self._span(before)[1], self._span(after)[0], operator
                        )
            case ast.BoolOp(op=bool_op, values=values):
                yield from self._bool_op_edits(node, bool_op, values)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield (*self._span(node), f"({self._text(operand)})", "not dropped")
            case ast.BinOp(left=left, op=op, right=right):
                yield from self._operator_edit(op, self._span(left)[1], self._span(right)[0], "arithmetic")
            case ast.Constant(value=value):
                for text in _other_constants(value):
                    yield (*self._span(node), text, "constant")
            case ast.IfExp(test=test):
                yield (*self._span(test), f"(not ({self._text(test)}))", "condition turned")
            case ast.Call():
                yield from self._call_edits(node)
            case _:
                pass

    def _call_edits(self, node: ast.Call) -> Iterator[_Edit]:
        match node.func:
            case ast.Name(id=name) if name in _OPPOSITES:
                yield (*self._span(node.func), _OPPOSITES[name], "comparison")
            case ast.Attribute(attr=attr, value=ast.Call() as value) if attr in _CLAUSES:
                yield (*self._span(node), f"({self._text(value)})", "clause dropped")
                if len(node.args) > 1:
                    for argument in node.args:
                        yield (*self._without_comma(argument), "", "clause dropped")
            case ast.Name(id=name) | ast.Attribute(attr=name) if not name.lstrip("_")[:1].isupper():
                for keyword in node.keywords:
                    if keyword.arg not in {None, "strict"}:
                        yield (*self._without_comma(keyword), "", "keyword dropped")
            case _:
                pass

    def _without_comma(self, node: ast.expr | ast.keyword) -> tuple[int, int]:
        start, end = self._span(node)
        following = re.match(rb"\s*,[ \t]*", self._source[end:])
        if following is not None:
            return start, end + following.end()
        preceding = re.search(rb",\s*$", self._source[:start])
        return (preceding.start() if preceding is not None else start), end

    def _bool_op_edits(self, node: ast.BoolOp, op: ast.boolop, values: list[ast.expr]) -> Iterator[_Edit]:
        old, new = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
        for before, after in itertools.pairwise(values):
            yield from self._token_edit(old, new, self._span(before)[1], self._span(after)[0], "and/or")
        for left_out in values:
            rest = [f"({self._text(value)})" for value in values if value is not left_out]
            yield (*self._span(node), "(" + f" {old} ".join(rest) + ")", "operand dropped")

    def _handler_edits(self, node: ast.ExceptHandler) -> Iterator[_Edit]:
        is_reraised = len(node.body) == 1 and isinstance(node.body[0], ast.Raise) and node.body[0].exc is None
        if not is_reraised:
            yield self._span(node.body[0])[0], self._span(node.body[-1])[1], "raise", "handler dropped"

    def _swallowed(self, node: ast.stmt) -> str:
        indent = " " * node.col_offset
        text = self._text(node)
        return f"try:\n{indent}    {text}\n{indent}except Exception:\n{indent}    pass"

    def _operator_edit(self, op: ast.operator, start: int, end: int, operator: str) -> Iterator[_Edit]:
        if type(op) in _ARITHMETIC:
            yield from self._token_edit(*_ARITHMETIC[type(op)], start, end, operator)

    def _token_edit(self, old: str, new: str, start: int, end: int, operator: str) -> Iterator[_Edit]:
        pattern = r"\s+".join(map(re.escape, old.split()))
        if old[0].isalpha():
            pattern = rf"\b{pattern}\b"
        between = self._source[start:end].decode()
        found = re.search(pattern, between)
        if found is not None:
            at = start + len(between[: found.start()].encode())
            yield at, at + len(found.group().encode()), new, operator


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may be changed inside a node: no annotations, decorators, or arguments of a class."""
    left_out: set[int] = set()
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            left_out = {id(child) for child in (*node.decorator_list, node.returns)}
        case ast.ClassDef():
            left_out = {id(child) for child in (*node.decorator_list, *node.bases, *node.keywords)}
        case ast.AnnAssign() | ast.arg():
            left_out = {id(node.annotation)}
        case ast.Subscript():
            left_out = set()
        case _:
            pass
    for child in ast.iter_child_nodes(node):
        if id(child) not in left_out:
            yield child


def _other_constants(value: object) -> tuple[str, ...]:
    match value:
        case bool():
            return (str(not value),)
        case int():
            return (str(value + 1),) if value <= 0 else (str(value + 1), str(value - 1))
        case float():
            return (repr(value * 2 if value else 1.0),)
        case _:
            return ()


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
