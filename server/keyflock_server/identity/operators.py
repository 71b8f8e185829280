"""Operators: who makes a call on the operator plane, and in which role."""

from dataclasses import dataclass
from typing import Final

from keyflock_server.protocol.roles import Role


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator, as a token has proven them."""

    #: The name of the token, by which the audit log knows the operator.
    name: str
    role: Role
    #: The id of the token; that of ``ROOT`` is its name.
    token_id: str = ""


#: The bearer of the token that is made with the data folder.
ROOT: Final = Operator("root", Role.ADMIN, token_id="root")  # noqa: S106 - an id, not a secret
