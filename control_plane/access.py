"""Who calls the public API, and what they may touch.

Invariants
1. An operator reaches every organisation; an admin key its own; a member key none (``/me`` alone).
2. Another organisation and one that does not exist are the same to an admin key: 404.
3. An endpoint below an organisation sees the database through its ``Scope`` alone.
"""

import hmac
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from control_plane.context import Ctx, Tx
from control_plane.keys import service as keys
from control_plane.tenancy import Scope
from control_plane.tenants import repository as tenants
from models.errors import NotFound, PermissionDenied, Unauthenticated
from models.identity import Principal

BEARER = HTTPBearer(auto_error=False, description="The operator key, or an API key with the role `admin`")


@dataclass(frozen=True)
class Caller:
    """``principal`` is None for the operator."""

    principal: Principal | None

    @property
    def is_operator(self) -> bool:
        """Whether this is the platform's operator."""
        return self.principal is None


async def caller(
    context: Ctx, transaction: Tx, given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
) -> Caller:
    """Who calls. Raises Unauthenticated."""
    if given is None:
        raise Unauthenticated("Send a key in the authorization header: 'Bearer <key>'.")
    config = context.config
    operator_key = config.operator_key.get_secret_value().encode()
    if hmac.compare_digest(given.credentials.encode(), operator_key):
        return Caller(principal=None)
    return Caller(principal=await keys.authenticate(transaction, given.credentials, config.key_pepper))


AnyCaller = Annotated[Caller, Depends(caller)]


async def operator(who: AnyCaller) -> Caller:
    """The operator. Raises PermissionDenied."""
    if not who.is_operator:
        raise PermissionDenied("Only the operator may do this.")
    return who


Operator = Annotated[Caller, Depends(operator)]


async def tenant(
    who: AnyCaller,
    transaction: Tx,
    organisation_id: Annotated[str, Path(max_length=64, description="The organisation's id")],
) -> Scope:
    """The scope of the path's organisation. Raises NotFound, PermissionDenied."""
    if who.principal is not None:
        if who.principal.role != "admin":
            raise PermissionDenied("This takes an API key with the role 'admin'.")
        if who.principal.organisation_id != organisation_id:
            raise NotFound("There is no organisation with this id.")
    await tenants.organisation(transaction.session, organisation_id)
    return Scope(transaction, organisation_id)


Tenant = Annotated[Scope, Depends(tenant)]
