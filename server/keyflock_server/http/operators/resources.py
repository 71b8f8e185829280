"""All resources of the operator API over one coordinator."""

from keyflock_server.coordinator import Coordinator
from keyflock_server.coordinator.operator_tokens import OperatorTokens
from keyflock_server.http.operators.audit import AuditResource
from keyflock_server.http.operators.devices import DeviceResource
from keyflock_server.http.operators.documentation import DocumentationResource
from keyflock_server.http.operators.events import EventResource
from keyflock_server.http.operators.forecasts import ForecastResource
from keyflock_server.http.operators.handlers import Resource
from keyflock_server.http.operators.personal_models import PersonalModelResource
from keyflock_server.http.operators.populations import PopulationResource
from keyflock_server.http.operators.releases import ReleaseResource
from keyflock_server.http.operators.rounds import RoundResource
from keyflock_server.http.operators.tasks import TaskResource
from keyflock_server.http.operators.tokens import TokenResource
from keyflock_server.http.operators.versions import VersionResource
from keyflock_server.http.personal_endpoints import PersonalEndpoints
from keyflock_server.live_events.hub import EventHub


def resources_of(
    coordinator: Coordinator, events: EventHub, tokens: OperatorTokens, personal: PersonalEndpoints
) -> list[Resource]:
    """Return the handlers of every operator's call.

    Args:
        coordinator: Its services answer the calls.
        events: The live events.
        tokens: The operators' tokens.
        personal: Erases personal models.
    """
    return [
        PopulationResource(coordinator.populations, coordinator.lists),
        TaskResource(coordinator.tasks, coordinator.lists, coordinator.task_history),
        ForecastResource(coordinator.forecasts),
        RoundResource(coordinator.tasks, coordinator.lists, coordinator.reading),
        VersionResource(coordinator.versions),
        DeviceResource(
            coordinator.quarantines,
            coordinator.revocations,
            coordinator.lists,
            coordinator.erasure,
            personal,
        ),
        ReleaseResource(coordinator.releases),
        PersonalModelResource(coordinator.reading),
        AuditResource(coordinator.audit),
        EventResource(events, coordinator.models),
        TokenResource(tokens),
        DocumentationResource(),
    ]
