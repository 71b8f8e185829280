"""Operators' tokens: who creates which, how soon one is void, and what a guess costs."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from tests.memory_store.store import MemoryStore

from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.operator_tokens import OperatorTokens
from keyflock_server.identity.api_tokens import ApiTokens
from keyflock_server.identity.operators import ROOT, Operator
from keyflock_server.protocol.operator.tokens import CreatedToken, TokenOrder
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.protocol.roles import Role
from keyflock_server.storage.operator_records import ApiTokenRecord

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TEXTS = ApiTokens(b"k" * 32)
AUDIT = AuditContext(operator="root", role="admin", reason="A test.", action="token.test", at=NOW)


class CountingRepository:
    """A store's tokens, and how often one was read."""

    def __init__(self) -> None:
        self._stored = MemoryStore().api_tokens
        self.reads = 0

    async def add(self, token: ApiTokenRecord, *, audit: AuditContext) -> None:
        await self._stored.add(token, audit=audit)

    async def get(self, id_: str) -> ApiTokenRecord | None:
        self.reads += 1
        return await self._stored.get(id_)

    async def all(self) -> list[ApiTokenRecord]:
        return await self._stored.all()

    async def revoke(self, id_: str, at: datetime, *, audit: AuditContext) -> ApiTokenRecord | None:
        return await self._stored.revoke(id_, at, audit=audit)


@dataclass
class TwoServers:
    """Two servers' tokens over one store, on a clock that a test moves."""

    repository: CountingRepository = field(default_factory=CountingRepository)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.here, self.there = (
            OperatorTokens(
                self.repository,
                TEXTS,
                lambda: NOW + timedelta(seconds=self.now_s),
                lambda: self.now_s,
            )
            for _ in range(2)
        )

    async def create(
        self, name: str = "ci", role: Role = Role.VIEWER, lifetime_s: float | None = None
    ) -> CreatedToken:
        order = TokenOrder(name=name, role=role, lifetime_s=lifetime_s, reason="A test.")
        return await self.here.create(order, ROOT, audit=AUDIT)


@pytest.fixture
def servers() -> TwoServers:
    return TwoServers()


async def refusal(tokens: OperatorTokens, text: str) -> tuple[ProblemCode, str]:
    with pytest.raises(ApiError) as refused:
        await tokens.bearer(text)
    return refused.value.code, refused.value.detail


@pytest.mark.parametrize("role", Role)
async def test_a_token_is_known_in_every_server_at_once(servers: TwoServers, role: Role) -> None:
    created = await servers.create("alice", role)

    for one in (servers.here, servers.there):
        assert await one.bearer(created.text) == Operator("alice", role, created.token.id)


async def test_a_revoked_token_is_refused_here_at_once_and_elsewhere_within_two_seconds(
    servers: TwoServers,
) -> None:
    created = await servers.create()
    for one in (servers.here, servers.there):
        await one.bearer(created.text)

    await servers.here.revoke(created.token.id, audit=AUDIT)
    here = await refusal(servers.here, created.text)
    servers.now_s = 1.9
    still_known = await servers.there.bearer(created.text)
    servers.now_s = 2.0
    there = await refusal(servers.there, created.text)

    assert still_known is not None
    assert (
        here == there == (ProblemCode.TOKEN_INVALID, "This token was revoked; an admin creates another one.")
    )


async def test_a_token_that_is_revoked_while_it_is_read_is_refused_here_at_once(
    servers: TwoServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = await servers.create()
    read = servers.repository.get

    async def revoke_behind_the_read(id_: str) -> ApiTokenRecord | None:
        record = await read(id_)
        servers.now_s += 0.1
        await servers.here.revoke(id_, audit=AUDIT)
        return record

    monkeypatch.setattr(servers.repository, "get", revoke_behind_the_read)
    first = await refusal(servers.here, created.text)

    assert first[0] is ProblemCode.TOKEN_INVALID


async def test_a_token_ends_at_its_instant_although_it_is_remembered(servers: TwoServers) -> None:
    created = await servers.create(lifetime_s=61.0)
    servers.now_s = 60.5
    before = await servers.here.bearer(created.text)

    servers.now_s = 61.0
    after = await refusal(servers.here, created.text)

    assert before is not None
    assert after[0] is ProblemCode.TOKEN_EXPIRED


async def test_who_does_not_have_the_secret_hears_nothing_of_a_token(servers: TwoServers) -> None:
    created = await servers.create()
    await servers.here.revoke(created.token.id, audit=AUDIT)
    guess = f"kf_{created.token.id}_{'0' * 48}"

    assert await servers.here.bearer(guess) is None


async def test_guessing_costs_the_store_nothing(servers: TwoServers) -> None:
    await servers.create()
    strange = ApiTokens(b"x" * 32)

    answers = [await servers.here.bearer(strange.new().text) for _ in range(50)]
    answers += [await servers.here.bearer(text) for text in ("", "admin", "kf_", "kf_a_b", "\udcff")]

    assert set(answers) == {None}
    assert servers.repository.reads == 0


async def test_a_known_id_is_read_once_in_two_seconds_whatever_is_guessed_of_its_secret(
    servers: TwoServers,
) -> None:
    created = await servers.create()

    for _ in range(50):
        await servers.here.bearer(f"kf_{created.token.id}_{'0' * 48}")
        servers.now_s += 0.1

    assert servers.repository.reads == 3


async def test_what_is_remembered_is_bounded(servers: TwoServers) -> None:
    for _ in range(1_500):
        await servers.here.bearer(TEXTS.new().text)

    assert len(servers.here._remembered) <= 1_024


async def test_the_secret_is_in_the_answer_to_the_creation_alone(servers: TwoServers) -> None:
    created = await servers.create()
    secret = created.text.rpartition("_")[2]

    stored = await servers.repository.get(created.token.id)
    shown = (await servers.here.list(None, 100)).items

    assert secret not in f"{stored} {shown} {created!r}"
    assert stored is not None
    assert secret.encode() not in stored.digest


@pytest.mark.parametrize("creator", Role)
@pytest.mark.parametrize("wanted", Role)
async def test_nobody_creates_a_token_that_is_stronger_than_their_own(
    servers: TwoServers, creator: Role, wanted: Role
) -> None:
    order = TokenOrder(name="x", role=wanted, reason="A test.")
    creating = servers.here.create(order, Operator("alice", creator), audit=AUDIT)

    if creator.includes(wanted):
        assert (await creating).token.role is wanted
    else:
        with pytest.raises(ApiError) as refused:
            await creating
        assert refused.value.code is ProblemCode.ROLE_TOO_WEAK
        assert (await servers.here.list(None, 100)).items == []


@pytest.mark.parametrize("name", ["root", "policy", "gate"])
async def test_a_name_that_stands_for_the_server_is_not_given_away(servers: TwoServers, name: str) -> None:
    with pytest.raises(ApiError) as refused:
        await servers.create(name)

    assert refused.value.code is ProblemCode.CONFLICT


async def test_a_list_says_of_each_token_whether_it_is_good(servers: TwoServers) -> None:
    names = {"active": None, "expired": 60.0, "revoked": None}
    created = {name: await servers.create(name, lifetime_s=lifetime_s) for name, lifetime_s in names.items()}
    await servers.here.revoke(created["revoked"].token.id, audit=AUDIT)
    servers.now_s = 60.0

    assert {one.name: one.state for one in (await servers.there.list(None, 100)).items} == {
        name: name for name in names
    }


async def test_a_list_is_read_a_page_at_a_time(servers: TwoServers) -> None:
    for number in range(5):
        await servers.create(f"ci-{number}")
        servers.now_s += 1.0

    seen, after = [], None
    for _ in range(3):
        page = await servers.here.list(after, 2)
        seen.append([one.name for one in page.items])
        after = page.next

    assert seen == [["ci-0", "ci-1"], ["ci-2", "ci-3"], ["ci-4"]]
    assert after is None
    assert (await servers.here.list("nobody", 2)).items == []


async def test_a_token_that_is_revoked_again_keeps_its_first_instant(servers: TwoServers) -> None:
    created = await servers.create()
    first = await servers.here.revoke(created.token.id, audit=AUDIT)
    servers.now_s = 10.0
    again = await servers.there.revoke(created.token.id, audit=AUDIT)

    assert again == first
    with pytest.raises(ApiError) as unknown:
        await servers.here.revoke("nobody", audit=AUDIT)
    assert unknown.value.code is ProblemCode.NOT_FOUND
