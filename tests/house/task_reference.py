"""``make docs``: docs/task_reference.md from the schema of tasks; ``test_task_reference`` compares the two.

Fields, types, defaults and bounds come from the structs, meanings from their ``#:`` comments. Only what the
schema does not say stands here: units, and meanings of fields without a comment.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple, get_args

import msgspec
from msgspec import NODEFAULT, UNSET, Struct
from msgspec import inspect as schema

from keyflock_compression import DEFAULT_SPEC, CodecSpec
from keyflock_server.rounds import cohort
from keyflock_server.rounds.task import COMMON_DEFAULTS, OPTIMIZER_DEFAULTS, TaskSpec
from keyflock_server.rounds.task_validation import FOREIGN_TABLES, SCHEDULE_FIELDS

PAGE: Final = Path(__file__).parents[2] / "docs" / "task_reference.md"

#: Units by the end of a field's name, the longest end first.
UNITS: Final = {
    "_since_training": "words",
    "_of_text": "days",
    "clip_norm": "units of the parameters",
    "_anchor_rise": "nats a word",
    "_anchor_drift": "nats a word",
    "_rounds": "rounds",
    "_bytes": "bytes",
    "_s": "seconds",
    "sequence_length": "tokens",
    "words_needed": "words",
    "biases": "words",
    "_examples": "sequences",
    "example_cap": "sequences",
    "batch_size": "sequences",
    "row_clip_norm": "units of the parameters",
}

#: Meanings of the fields that the schema gives no comment.
MEANINGS: Final = {
    "task.name": "The name that commands and addresses use: letters, digits and `_ . -`; unique.",
    "task.population": "The population whose phones do the work. It must exist.",
    "task.kind": "`train` makes model versions; `personalize` asks what personal models gain; "
    "`evaluate` compares two versions.",
    "round.mode": "`sync`: a cohort is assigned together. `async`: work is given out all the time, and every "
    "`goal` reports make a version.",
    "round.auto.over_selection": "The limits of `round.over_selection`.",
    "round.auto.deadline_s": "The limits of `round.deadline_s`.",
    "eligibility.min_examples": "Minimum number of training sequences on the phone.",
    "eligibility.app_build_min": "The oldest build of the app that is admitted.",
    "eligibility.app_build_max": "The newest build of the app that is admitted; left out, any.",
    "eligibility.require_idle": "Nobody may be typing.",
    "eligibility.require_charging": "The phone must be charging.",
    "eligibility.require_unmetered": "The phone must be on Wi-Fi or on a plan without a meter.",
    "eligibility.min_battery_ratio": "Minimum charge of the battery.",
    "eligibility.max_thermal_status": "Maximum heat, as Android counts: 0 none, 3 severe.",
    "pacing.min_s": "The shortest time after which a phone is told to return.",
    "pacing.max_s": "The longest.",
    "training.learning_rate": "Rate of the phone's plain SGD.",
    "training.epochs": "Passes over the phone's sequences.",
    "training.batch_size": "Sequences in a batch.",
    "aggregation.weighting": "Weight of a report: its examples up to `example_cap`, their square root, or 1.",
    "optimizer.name": "The server's optimiser; the next table has each one's parameters.",
    "optimizer.b2": "fedadam, fedyogi and fedamsgrad only.",
    "optimizer.schedule.name": "The form of the schedule; the next table has each one's fields.",
    "quarantine.within_s": "The time within which those reports were rejected.",
    "quarantine.max_duration_s": "Maximum duration of a quarantine.",
    "codec_by_network.unmetered": "The codec on Wi-Fi and plans without a meter: a table as `[codec]`.",
    "codec_by_network.metered": "The codec where each byte costs: a table as `[codec]`.",
    "codec_by_network.slow": "The codec where uploading takes long: a table as `[codec]`.",
    "personalising.heads.epochs": "Maximum number of passes over the user's words.",
    "codec.row_count": "The number of vocabulary rows that are sent.",
}

_BEGINNING: Final = """\
# Every field of a task

A task is a TOML file. `keyflock task create FILE.toml` checks it and starts it; a field that is unknown,
of a wrong type or out of bounds is refused by name. Only `task.name`, `task.population` and `round.goal`
must be given. An integer has no decimal point (`4.0` is refused); a number may have one or not.
[examples/](examples/) has files to begin with, and [tutorial.md](tutorial.md) runs one.

This page is generated from the schema by `make docs`, and a test compares the two. In the tables,
**bold** fields must be given, "-" as a default means that the field is left out, and bounds are inclusive
unless `<` or `>` is written.
"""

_RULES: Final = """\
## Rules between fields

A task that breaks one of them is refused, and the message says what to change.

* `round.minimum` is at most `round.goal`; `round.min_flush_clients` is at most both.
* `round.min_flush_clients` below 4 needs `round.unsafe_single_flush = true`: stored sums may then show
  one phone's update.
* `round.concurrency` and `round.max_staleness` belong to `mode = "async"`; `concurrency` is at least
  `goal`.
* A task of kind `personalize` or `evaluate` is synchronous, and a round of theirs that misses its minimum is
  abandoned.
* `evaluating.candidate` and `evaluating.baseline` are different versions, and no metric is named twice.
* `[stop_when]` has `reaches`, `no_improvement_for` or both: the first that holds ends the task.
* `round.auto` limits are `[min, max]` around the value in `[round]`.
* `app_build_max` is not below `app_build_min`; `pacing.max_s` is not below `pacing.min_s`;
  `quarantine.max_duration_s` is not below `quarantine.duration_s`.
* `feedback_s` of a codec needs nearest rounding, `rowset` excepted. Dead zones need `target_nmse`,
  `step_rms` or `budget_bytes`; the first two exclude each other.
* Numbers are finite.

What some fields are when they are left out: `round.minimum` four fifths of the goal, but not below
`min_flush_clients`; `round.selection_s` a quarter of `deadline_s`; `round.concurrency` the goal and the
over-selection; `[[personalising.heads]]` one candidate with the defaults.

What can change after a task was created: nothing but its state (`keyflock task pause | resume | cancel`).
For other values cancel it and create it anew: the name is free again, and the new task has an id of its own.
"""


class Row(NamedTuple):
    """One field as the page shows it."""

    path: str
    name: str
    type: str
    default: str
    unit: str
    bounds: str
    meaning: str


def comments(struct: type) -> dict[str, str]:
    """Return the ``#:`` comment of each field of a struct, inherited ones included."""
    found: dict[str, str] = {}
    for base in reversed([one for one in struct.__mro__ if "__annotations__" in vars(one)]):
        if base.__module__.startswith("msgspec"):
            continue
        lines = textwrap.dedent(inspect.getsource(base)).splitlines()
        body = ast.parse("\n".join(lines)).body[0]
        assert isinstance(body, ast.ClassDef)
        for node in body.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                above = node.lineno - 2
                words: list[str] = []
                while lines[above].strip().startswith("#:"):
                    words.insert(0, lines[above].strip()[2:].strip())
                    above -= 1
                if words:
                    found[node.target.id] = " ".join(words)
    return found


def summary(struct: type) -> str:
    """Return the docstring's first paragraph without the table's name."""
    first = " ".join((struct.__doc__ or "").split("\n\n")[0].split())
    text = first.partition("``: ")[2] if first.startswith("``[") else first
    return _marked(text[:1].upper() + text[1:])


def rows(prefix: str, struct: type, table: object = None) -> list[Row]:
    """Return the fields of one table that are no tables themselves.

    Args:
        prefix: Path of the table, with the dot.
        struct: Its struct.
        table: The value of the whole table where it is left out, if its fields' defaults differ from that.
    """
    explained = comments(struct)
    return [
        Row(
            path=prefix + field.name,
            name=f"**{field.name}**" if field.required else field.name,
            type=_type(field.type),
            default=_default(field, table),
            unit=next((unit for end, unit in UNITS.items() if field.name.endswith(end)), ""),
            bounds=_bounds(field.type),
            meaning=_marked(explained.get(field.name) or MEANINGS.get(prefix + field.name, "")),
        )
        for field in _fields(struct)
        if _inner(field.type) is None and not isinstance(field.type, schema.NoneType)
    ]


def all_rows() -> Iterator[Row]:
    """Every field of a task."""
    for _, _, found in sections():
        yield from found


def sections() -> Iterator[tuple[str, str, list[Row]]]:
    """Each table: its heading, what it is for, and its fields."""
    for field in _fields(TaskSpec):
        inner = _inner(field.type)
        if field.name == "codec":
            yield from _codec_sections()
        elif inner is not None:
            whole = None if field.default is NODEFAULT else field.default
            yield from _struct_sections(f"[{field.name}]", f"{field.name}.", inner, whole)


def page() -> str:
    """Return the whole page."""
    parts = [_BEGINNING, _kinds()]
    for heading, about, found in sections():
        parts.append(f"## `{heading}`\n\n{about}\n")
        if found:
            parts.append(_table(found))
        parts.extend(_afterwards(heading))
    return "\n".join([*parts, _RULES])


def _struct_sections(
    heading: str, prefix: str, struct: type, table: object, *, about: str = ""
) -> Iterator[tuple[str, str, list[Row]]]:
    yield heading, summary(struct) + about, rows(prefix, struct, table)
    for field in _fields(struct):
        inner = _inner(field.type)
        if inner is not None:
            path = f"{prefix}{field.name}"
            array = _array(field.type)
            yield from _struct_sections(
                f"[{path}]" if array is None else f"[[{path}]]",
                f"{path}.",
                inner,
                None,
                about=""
                if array is None
                else f" There are {array.min_length} to {array.max_length} of them.",
            )


def _codec_sections() -> Iterator[tuple[str, str, list[Row]]]:
    kinds = get_args(CodecSpec)
    shared = set.intersection(*(set(kind.__struct_fields__) for kind in kinds))
    wire = ", ".join(f"`{name} = {_toml(value)}`" for name, value in DEFAULT_SPEC.to_wire().items())
    about = (
        "How deltas become bytes ([wire_format.md](wire_format.md)). The table names one `codec` and the "
        f"settings of that codec. Left out as a whole: {wire}. A table that is given replaces all of that; "
        "without `codec` it means `deadzone`. All codecs have:"
    )
    yield "[codec]", about, [row for row in rows("codec.", kinds[1]) if row.name in shared]
    for kind in kinds:
        tag = str(kind.__struct_config__.tag)
        nearest_only = get_args(kind.__annotations__.get("rounding", None)) == ("nearest",)
        notes = [
            f"{(kind.__doc__ or '').split('.')[0].strip()}.",
            *(["`rounding` is `nearest`."] if nearest_only else []),
            *(["It takes no `feedback_s`."] if kind.__annotations__.get("feedback_s", 0) is None else []),
        ]
        own = [row for row in rows("codec.", kind) if row.name.strip("*") not in shared]
        yield f'[codec] codec = "{tag}"', _marked(" ".join(notes)), own


def _afterwards(heading: str) -> Iterator[str]:
    if heading == "[optimizer]":
        lines = ["| name | parameters and their defaults |", "|---|---|"]
        lines += [
            f"| `{name}` | {', '.join(f'`{one}` {value:g}' for one, value in parameters.items())} |"
            for name, parameters in (
                (name, own | COMMON_DEFAULTS) for name, own in OPTIMIZER_DEFAULTS.items()
            )
        ]
        yield "\n".join([*lines, ""])
    if heading == "[optimizer.schedule]":
        lines = ["| name | must have | may have, beside `warmup_rounds` |", "|---|---|---|"]
        lines += [
            f"| `{name}` | {', '.join(map(_code, needed))} | {', '.join(map(_code, optional))} |"
            for name, (needed, optional) in SCHEDULE_FIELDS.items()
        ]
        yield "\n".join([*lines, ""])

    if heading == "[eligibility]":
        _, grammar, meaning = (cohort.__doc__ or "").partition("\n\n    ")
        block, _, rest = f"    {meaning}".rpartition("\n\n")
        assert grammar
        lines = [
            "A cohort expression, an example and the grammar:",
            "",
            "```",
            textwrap.dedent(block),
            "```",
            "",
        ]
        limits = f"At most {cohort.MAX_LENGTH:,} characters, nested at most {cohort.MAX_DEPTH} deep."
        yield "\n".join([*lines, f"{_marked(rest.strip())}\n{limits}", ""])


def _array(kind: schema.Type) -> schema.VarTupleType | None:
    """Return the array of tables that a field is; None if it is one table."""
    inner = kind.type if isinstance(kind, schema.Metadata) else kind
    return inner if isinstance(inner, schema.VarTupleType) else None


def _kinds() -> str:
    lines = ["| `task.kind` | tables that are refused, because they mean nothing to it |", "|---|---|"]
    lines += [
        f"| `{kind}` | {', '.join(f'`[{name}]`' for name in tables)} |"
        for kind, tables in FOREIGN_TABLES.items()
    ]
    return "\n".join([*lines, ""])


def _table(found: list[Row]) -> str:
    lines = ["| field | type | default | unit | bounds | meaning |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.type} | {row.default} | {row.unit} | {row.bounds} | {row.meaning} |"
        for row in found
    ]
    return "\n".join([*lines, ""])


def _fields(struct: type) -> tuple[schema.Field, ...]:
    found = schema.type_info(struct)
    assert isinstance(found, schema.StructType)
    return found.fields


def _inner(kind: schema.Type) -> type[Struct] | None:
    """Return the struct that a field is a table of, or an array of tables of."""
    match kind:
        case schema.StructType():
            return kind.cls
        case schema.VarTupleType():
            return _inner(kind.item_type)
        case schema.UnionType():
            return next((found for one in kind.types if (found := _inner(one))), None)
        case _:
            return None


def _bare(kind: schema.Type) -> list[schema.Type]:
    """Return the types that an operator can write: no metadata, no None."""
    match kind:
        case schema.Metadata():
            return _bare(kind.type)
        case schema.UnionType():
            return [bare for one in kind.types for bare in _bare(one)]
        case schema.NoneType():
            return []
        case _:
            return [kind]


def _type(kind: schema.Type) -> str:
    names = {
        schema.IntType: "integer",
        schema.FloatType: "number",
        schema.StrType: "string",
        schema.BoolType: "boolean",
        schema.LiteralType: "choice",
        schema.EnumType: "choice",
        schema.DictType: "table",
        schema.VarTupleType: "array of strings",
        schema.TupleType: "array of two numbers",
        schema.DateTimeType: "date and time",
    }
    found = {names[type(one)] for one in _bare(kind)}
    return "number" if found == {"integer", "number"} else " or ".join(sorted(found))


def _bounds(kind: schema.Type) -> str:
    # For an integer or a number, the number's bounds are those of both.
    one = _bare(kind)[-1]
    match one:
        case schema.LiteralType():
            return ", ".join(_code(value) for value in one.values)
        case schema.EnumType():
            return ", ".join(_code(member.value) for member in one.cls)
        case schema.IntType() | schema.FloatType():
            ends = {"≥": one.ge, ">": one.gt, "≤": one.le, "<": one.lt}
            return ", ".join(f"{sign} {_number(end)}" for sign, end in ends.items() if end is not None)
        case schema.TupleType():
            return f"each {_bounds(one.item_types[0])}"
        case schema.StrType() if one.max_length is not None:
            minimum = "" if one.min_length is None else f"{one.min_length} to "
            pattern = "" if one.pattern is None else f", {_code(_portable(one.pattern))}"
            return f"{minimum or 'at most '}{one.max_length} characters{pattern}"
        case schema.VarTupleType(item_type=item):
            return f"each {_bounds(item)}"
        case _:
            return ""


def _portable(pattern: str) -> str:
    r"""Return a pattern with ``$`` at its end, where Python writes ``\Z``."""
    return pattern.removesuffix(r"\Z") + "$" if pattern.endswith(r"\Z") else pattern


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _default(field: schema.Field, table: object) -> str:
    if field.required:
        return f"{_code(_toml(getattr(table, field.name)))} without the table" if table is not None else ""
    return "-" if field.default in (None, UNSET, NODEFAULT) else _code(_toml(field.default))


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case Enum():
            return f'"{value.value}"'
        case str():
            return f'"{value}"'
        case int() | float():
            return f"{value:.4g}" if isinstance(value, float) and not value.is_integer() else f"{value}"
        case _:
            return msgspec.json.encode(value).decode()


def _code(value: object) -> str:
    return f"`{value}`"


def _marked(text: str) -> str:
    """Return a comment as Markdown for a table's cell."""
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
