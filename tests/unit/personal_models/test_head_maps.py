"""A head map leads from the version before; where that one is not served, the answer says so and no more."""

from dataclasses import dataclass
from typing import Any

import pytest

from keyflock_server.personal_models.head_maps import HeadMapService
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.problems import ApiError, ProblemCode

EN = PopulationName("en-US")


@dataclass
class VersionSource:
    """Serves the versions that it is given, and refuses all others with a code."""

    served: set[int]
    code: ProblemCode

    async def released_model(self, population: PopulationName, version: int) -> Any:  # noqa: ANN401
        if version not in self.served:
            raise ApiError(self.code, f"{population} has no {version}.")
        return object()

    async def get(self, _population: PopulationName) -> Any:  # noqa: ANN401 - no map is fitted here
        return object()


async def refusal(source: VersionSource, version: int) -> ApiError:
    with pytest.raises(ApiError) as refused:
        await HeadMapService(source, source).map_to(EN, version)  # type: ignore[arg-type]  # no infos are read
    return refused.value


@pytest.mark.fault("F12")
@pytest.mark.parametrize("code", [ProblemCode.MODEL_UNKNOWN, ProblemCode.MODEL_WITHDRAWN])
@pytest.mark.parametrize("version", [0, 7])
async def test_a_version_with_none_before_it_has_no_map_and_the_phone_fits_its_head_anew(
    version: int, code: ProblemCode
) -> None:
    found = await refusal(VersionSource({version}, code), version)

    assert (found.code, found.status) == (ProblemCode.HEAD_MAP_UNKNOWN, 404)
    assert "fit the head anew" in found.detail
    assert "check in" not in f"{found.document().title} {found.detail}"


@pytest.mark.fault("F12")
@pytest.mark.parametrize("code", [ProblemCode.MODEL_UNKNOWN, ProblemCode.MODEL_WITHDRAWN])
async def test_a_version_that_is_not_served_is_refused_as_its_download_is(code: ProblemCode) -> None:
    assert (await refusal(VersionSource({6}, code), 7)).code is code
    assert (await refusal(VersionSource(set(), code), 0)).code is code


@pytest.mark.fault("F12")
async def test_a_store_that_fails_says_nothing_about_the_map() -> None:
    assert (await refusal(VersionSource({7}, ProblemCode.OVERLOADED), 7)).code is ProblemCode.OVERLOADED
