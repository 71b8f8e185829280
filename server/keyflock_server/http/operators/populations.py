"""Answers operators' calls about populations."""

from typing import Any

from keyflock_server.coordinator.operator_lists import OperatorLists
from keyflock_server.coordinator.population_service import PopulationService
from keyflock_server.http.operators.cursors import decode_cursor, encode_cursor
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator.call import NoBody, Query, ReasonOrder, ReasonQuery
from keyflock_server.protocol.operator.populations import (
    ARCHIVE_POPULATION,
    CREATE_POPULATION,
    DELETE_POPULATION,
    POPULATIONS,
    PREVIEW_COHORT,
    RENAME_POPULATION,
    ROLL_BACK,
    UNARCHIVE_POPULATION,
    CohortPreview,
    CohortQuestion,
    DeletionOrder,
    PopulationDeleted,
    PopulationList,
    PopulationQuery,
    PopulationView,
    RenameOrder,
    RollbackOrder,
)


class PopulationResource:
    """The handlers of the calls about populations.

    Args:
        service: Creates, renames, rolls back and deletes populations.
        lists: Lists them.
    """

    def __init__(self, service: PopulationService, lists: OperatorLists) -> None:
        self._service = service
        self._lists = lists

    def register(self, handlers: Handlers) -> None:
        """See ``handlers.Resource``."""
        handlers.add(POPULATIONS, self._list)
        handlers.add(CREATE_POPULATION, self._create)
        handlers.add(PREVIEW_COHORT, self._preview_cohort)
        handlers.add(ROLL_BACK, self._roll_back)
        handlers.add(RENAME_POPULATION, self._rename)
        handlers.add(ARCHIVE_POPULATION, self._archive, revision=self._revision)
        handlers.add(UNARCHIVE_POPULATION, self._unarchive, revision=self._revision)
        handlers.add(DELETE_POPULATION, self._delete)

    async def _list(self, request: OperatorRequest[PopulationQuery, NoBody]) -> PopulationList:
        query = request.query
        page = await self._lists.populations(
            decode_cursor(query.after, PopulationName), query.limit, is_archived=query.archived
        )
        return PopulationList(items=page.items, next=encode_cursor(page.next))

    async def _create(self, request: OperatorRequest[ReasonQuery, bytes]) -> PopulationView:
        name = PopulationName(request.new_name("population"))
        audit = request.audit("population.create", request.query.reason)
        return await self._service.create(name, request.body, audit=audit)

    async def _preview_cohort(self, request: OperatorRequest[Query, CohortQuestion]) -> CohortPreview:
        question = request.body
        return await self._service.preview_cohort(request.population, question.cohort)

    async def _roll_back(self, request: OperatorRequest[Query, RollbackOrder]) -> PopulationView:
        audit = request.audit("population.roll_back", request.body.reason)
        return await self._service.roll_back(request.population, request.body, audit=audit)

    async def _rename(self, request: OperatorRequest[Query, RenameOrder]) -> PopulationView:
        audit = request.audit("population.rename", request.body.reason)
        return await self._service.rename(request.population, request.body, audit=audit)

    async def _revision(self, request: OperatorRequest[Any, Any]) -> int:
        return await self._service.revision(request.population)

    async def _archive(self, request: OperatorRequest[Query, ReasonOrder]) -> PopulationView:
        audit = request.audit("population.archive", request.body.reason)
        return await self._service.set_archived(request.population, is_archived=True, audit=audit)

    async def _unarchive(self, request: OperatorRequest[Query, ReasonOrder]) -> PopulationView:
        audit = request.audit("population.unarchive", request.body.reason)
        return await self._service.set_archived(request.population, is_archived=False, audit=audit)

    async def _delete(self, request: OperatorRequest[Query, DeletionOrder]) -> PopulationDeleted:
        audit = request.audit("population.delete", request.body.reason)
        return await self._service.delete(request.population, request.body, audit=audit)
