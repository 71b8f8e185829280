"""The documents of the audit log: what it says of a subject before and after a change, and its revision.

A document has every field of the subject's row but those listed here: blob keys, digests that stand for
people, secrets, and the mathematics' own state, none of which an operator changes. Of a device it has only
what an operator can change, because the log outlives the device.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import Field, fields
from typing import Any, ClassVar, Final, Protocol

from keyflock_server.audit.canonical_json import Document, canonical_json
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.quarantine import stored_quarantine
from keyflock_server.storage.errors import Superseded
from keyflock_server.storage.operator_records import ApiTokenRecord, ReleaseRecord
from keyflock_server.storage.records import DeviceRecord, PopulationRecord, RoundRecord, TaskRecord

#: Fields that are in no document.
LEFT_OUT: Final[Mapping[type, frozenset[str]]] = {
    PopulationRecord: frozenset({"average_key", "personalisation_json"}),
    TaskRecord: frozenset({"optimizer_state_key", "norm_scales_json"}),
    # A round's spec never changes; the rest is in columns of their own.
    RoundRecord: frozenset({"aggregate_key", "staged", "norm_scales_json"}),
    VersionRecord: frozenset({"download_key", "checkpoint_key", "released_key"}),
    ReleaseRecord: frozenset(),
    ApiTokenRecord: frozenset({"digest"}),
}


class _Row(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def population_document(
    record: PopulationRecord, names: Collection[str], withdrawn: Iterable[ModelVersion]
) -> Document:
    """Return a population's document, with its names and its withdrawn versions."""
    return _document(record) | {"names": sorted(names), "withdrawn": sorted(withdrawn)}


def task_document(record: TaskRecord) -> Document:
    """Return a task's document."""
    return _document(record) | {"name": record.name, "population": record.spec.population}


def round_document(record: RoundRecord) -> Document:
    """Return a round's document."""
    current = record.round
    columns = {one.name: getattr(current, one.name) for one in fields(current) if one.name != "spec"}
    return _with_parsed_json(columns)


def version_document(record: VersionRecord) -> Document:
    """Return a model version's document."""
    document = _document(record)
    digests = {name: value.hex() for name, value in document.items() if isinstance(value, bytes)}
    return document | digests


def release_document(record: ReleaseRecord) -> Document:
    """Return the document of a population's release state."""
    return _document(record)


def token_document(record: ApiTokenRecord) -> Document:
    """Return the document of an operator's token."""
    return _document(record)


def device_document(record: DeviceRecord) -> Document:
    """Return a device's document: what an operator can change, and nothing that tells whose device it is."""
    standing = stored_quarantine(record.standing_json)
    return {
        "population": record.population,
        "violations": len(standing.violations),
        "quarantine": standing.last,
        "quarantined_until": record.quarantined_until,
        "token_generation": record.token_generation,
    }


def revision_of(kind: SubjectKind, document: Document) -> str:
    """Return the revision of what a document describes: it changes with what operators change of it.

    Tasks, populations and releases count theirs; a device's and a version's is a digest.
    """
    match kind:
        case SubjectKind.TASK | SubjectKind.POPULATION:
            return str(document["revision"])
        case SubjectKind.RELEASE:
            return str(document["sequence"])
        case SubjectKind.VERSION:
            return _digest((document["pinned_at"], document["withdrawn_at"]))
        case _:
            return _digest(document)


def require_revision(audit: AuditContext, kind: SubjectKind, id_: str, document: Document | None) -> None:
    """Raise Superseded if a change was decided on another revision than the subject has.

    Every store asks this within the transaction of the change, of the locked rows. What is not there has no
    revision: the change itself finds that out.
    """
    if audit.revision is not None and document is not None and revision_of(kind, document) != audit.revision:
        raise Superseded(id_)


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def _document(record: _Row) -> dict[str, Any]:
    left_out = LEFT_OUT[type(record)]
    return _with_parsed_json(
        {one.name: getattr(record, one.name) for one in fields(record) if one.name not in left_out}
    )


def _with_parsed_json(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns with JSON as the values that it encodes, so that differences name single fields."""
    return {
        name.removesuffix("_json"): json.loads(value) if name.endswith("_json") and value else value
        for name, value in columns.items()
    }
