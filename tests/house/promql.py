"""Compares PromQL expressions with the declared series: what they name must be what a server shows."""

from collections.abc import Iterator
from typing import Final

import promql_parser
from promql_parser import AggregateExpr, BinaryExpr, Expr, Matcher, MatchOp, VectorSelector

from keyflock_server.telemetry.series import SERIES
from keyflock_server.telemetry.series.declaration import DeclaredSeries, SeriesKind

#: Labels that Prometheus itself adds to what it scrapes.
_TARGET: Final = frozenset({"job", "instance"})
#: A series of Prometheus' own: whether the last scrape of a target succeeded.
_UP: Final = "up"
#: What Grafana fills in, and something of the same kind.
_VARIABLES: Final = {"$__rate_interval": "5m"}


def complaints(text: str) -> list[str]:
    """Return what is wrong with the names in an expression; ValueError where it is no PromQL."""
    for variable, value in _VARIABLES.items():
        text = text.replace(variable, value)
    nodes = list(_nodes(promql_parser.parse(text)))
    selectors = [node for node in nodes if isinstance(node, VectorSelector)]
    found = [complaint for selector in selectors for complaint in _about(selector)]
    known = _TARGET.union(*(_labels(name) for one in selectors if (name := one.name) is not None))
    return found + [f"no label {label}" for label in _grouped(nodes) if label not in known]


def _nodes(expression: Expr) -> Iterator[Expr]:
    found: list[Expr] = []

    def visit(node: Expr) -> bool:
        found.append(node)
        return True

    promql_parser.walk(expression, visit)
    yield from found


def _grouped(nodes: list[Expr]) -> Iterator[str]:
    """Yield the labels that results are grouped or matched by."""
    for node in nodes:
        if isinstance(node, AggregateExpr) and node.modifier is not None:
            yield from node.modifier.labels
        if isinstance(node, BinaryExpr) and node.modifier is not None and node.modifier.matching is not None:
            yield from node.modifier.matching.labels


def _about(selector: VectorSelector) -> Iterator[str]:
    name, labels = selector.name or "", _labels(selector.name or "")
    if name != _UP and _series(name) is None:
        yield f"no series {name}"
        return
    for matcher in selector.matchers.matchers:
        if matcher.name not in labels:
            yield f"{name} has no label {matcher.name}"
            continue
        for value in _values(matcher):
            if (allowed := labels[matcher.name]) and value not in allowed:
                yield f"{name}: {matcher.name} is never {value}"


def _values(matcher: Matcher) -> list[str]:
    return matcher.value.split("|") if matcher.op in (MatchOp.Re, MatchOp.NotRe) else [matcher.value]


def _series(sample: str) -> DeclaredSeries | None:
    """Return the series that a sample's name belongs to."""
    for series in SERIES:
        if series.kind is SeriesKind.HISTOGRAM:
            if sample in {f"{series.name}_{part}" for part in ("bucket", "sum", "count")}:
                return series
        elif sample == series.name:
            return series
    return None


def _labels(sample: str) -> dict[str, tuple[str, ...]]:
    """Return a sample's labels with their values; none where any value may be."""
    series = _series(sample)
    own = {} if series is None else {label.name: label.values for label in series.labels}
    buckets = {"le": ()} if sample.endswith("_bucket") else {}
    return {**dict.fromkeys(_TARGET, ()), **buckets, **own}
