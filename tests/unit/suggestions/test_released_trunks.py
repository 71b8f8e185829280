"""A new version takes over, and heads come along."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from tests.http.personal.conftest import CONFIG, vocabulary, weights

from keyflock_compression import decode_state, encode_weights
from keyflock_models.arrays import F32
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.blend import HEAD, TRUNK
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.head_mapping import HeadMap, map_head
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.serving.profile import ServingProfile
from keyflock_server.personal_models.head_maps import HeadMapService
from keyflock_server.personal_models.population_model_info import PopulationModelInfos
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.messages import Release
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.suggestions.released_trunks import ReleasedTrunks

EN = PopulationName("en")
LAYOUT = ParamLayout.for_config(CONFIG)


@dataclass
class ModelBytes:
    body: bytes


@dataclass
class ScriptedModels:
    """A population whose versions are put here."""

    published: list[F32] = field(default_factory=lambda: [weights()])
    is_deleted: bool = False

    async def population_names(self) -> list[PopulationName]:
        return [] if self.is_deleted else [EN]

    async def release(self, population: PopulationName) -> Release:
        version = ModelVersion(len(self.published) - 1)
        return Release(
            population=population,
            model_version=version,
            model_digest=bytes(32),
            size_bytes=1,
            vocabulary="",
            layout=LAYOUT.digest,
        )

    async def released_model(self, population: PopulationName, version: int) -> ModelBytes:
        if not 0 <= version < len(self.published):
            raise ApiError(ProblemCode.MODEL_UNKNOWN, f"{population} has no {version}.")
        return ModelBytes(encode_weights(self.published[version], LAYOUT))

    async def vocabulary(self, population: PopulationName) -> bytes:
        del population
        return vocabulary().to_bytes()

    async def config(self, population: PopulationName) -> ModelConfig:
        del population
        return CONFIG

    def step(self, size: float = 0.05) -> None:
        """One more version, a little way on."""
        rng = np.random.default_rng(len(self.published))
        last = self.published[-1]
        self.published.append(last + rng.normal(0, size, last.shape).astype(np.float32))


def released_from(versions: ScriptedModels) -> ReleasedTrunks:
    languages = PopulationModelInfos(versions)
    return ReleasedTrunks(versions, languages, HeadMapService(versions, languages), lambda _word: True)


def head_on(space: str) -> PersonalHead:
    rng = np.random.default_rng(4)
    return PersonalHead(
        space,
        rng.normal(size=(4, 2)).astype(np.float32),
        rng.normal(size=(2, 4)).astype(np.float32),
        np.array([5], np.int32),
        np.array([1.0], np.float32),
    )


async def test_until_it_is_compiled_a_population_is_not_ready() -> None:
    with pytest.raises(ApiError) as refused:
        released_from(ScriptedModels()).get(EN)

    assert refused.value.code is ProblemCode.NOT_READY


@pytest.mark.fault("F14")
async def test_the_trunk_of_a_deleted_population_leaves_memory() -> None:
    versions = ScriptedModels()
    released = released_from(versions)
    await released.refresh()
    before = released.get(EN).version
    versions.is_deleted = True

    await released.refresh()

    with pytest.raises(ApiError) as refused:
        released.get(EN)
    assert (before, refused.value.code) == (0, ProblemCode.NOT_READY)


async def test_heads_of_earlier_versions_are_carried_along_step_by_step() -> None:
    versions = ScriptedModels()
    released = released_from(versions)
    await released.refresh()
    first = released.get(EN)
    versions.step()
    await released.refresh()
    versions.step()
    versions.step()
    await released.refresh()

    last = released.get(EN)

    assert last.version == 3
    assert last.maps[first.trunk.space].steps == 3
    assert {one.to_space for one in last.maps.values()} == {last.trunk.space}
    assert len(last.maps) == 3


async def test_a_profile_follows_with_its_head_which_then_weighs_less() -> None:
    versions = ScriptedModels()
    released = released_from(versions)
    await released.refresh()
    model = PersonalModel.new(vocabulary())
    model.learn("zoo tea", None)
    model.head = head_on(released.get(EN).trunk.space)
    profile = ServingProfile.from_model(model, released.get(EN).index)
    versions.step()
    await released.refresh()
    now = released.get(EN)

    followed = profile.for_trunk(now.trunk.space, now.maps)

    assert followed.head is not None
    assert followed.head.space == now.trunk.space
    assert (followed.weights[:, HEAD] < profile.weights[:, HEAD]).all()
    assert (followed.weights[:, TRUNK] > profile.weights[:, TRUNK]).all()
    assert followed.for_trunk(now.trunk.space, now.maps) is followed


async def test_a_head_that_no_map_leads_from_is_left_as_it_is() -> None:
    versions = ScriptedModels()
    released = released_from(versions)
    await released.refresh()
    model = PersonalModel.new(vocabulary())
    model.head = head_on("f" * 32)
    profile = ServingProfile.from_model(model, released.get(EN).index)

    assert profile.for_trunk(released.get(EN).trunk.space, released.get(EN).maps) is profile


async def test_a_phone_gets_the_same_map_that_the_server_uses() -> None:
    versions = ScriptedModels()
    versions.step()
    maps = HeadMapService(versions, PopulationModelInfos(versions))

    published = await maps.map_to(EN, 1)

    read = HeadMap.from_state(decode_state(published.body), width=4)
    head = head_on(published.map.from_space)
    assert map_head(head, read).down.tolist() == map_head(head, published.map).down.tolist()
    assert (await maps.map_to(EN, 1)) is published


@pytest.mark.parametrize(
    ("version", "code"), [(0, ProblemCode.HEAD_MAP_UNKNOWN), (7, ProblemCode.MODEL_UNKNOWN)]
)
async def test_there_is_no_map_to_version_0_nor_to_one_that_is_not_there(
    version: int, code: ProblemCode
) -> None:
    versions = ScriptedModels()

    with pytest.raises(ApiError) as refused:
        await HeadMapService(versions, PopulationModelInfos(versions)).map_to(EN, version)

    assert refused.value.code is code
