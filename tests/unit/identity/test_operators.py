"""A role may do what the weaker ones may, and no more."""

import pytest

from keyflock_server.identity.operators import ROOT
from keyflock_server.protocol.roles import Role


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.VIEWER, {Role.VIEWER}),
        (Role.OPERATOR, {Role.VIEWER, Role.OPERATOR}),
        (Role.ADMIN, {Role.VIEWER, Role.OPERATOR, Role.ADMIN}),
    ],
)
def test_a_role_includes_the_weaker_ones(role: Role, may: set[Role]) -> None:
    assert {needed for needed in Role if role.includes(needed)} == may


def test_the_token_of_the_data_folder_is_an_admins() -> None:
    assert (ROOT.name, ROOT.role) == ("root", Role.ADMIN)
