"""What can be done with credentials."""

import logging

from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.config import ControlPlaneConfig
from control_plane.credentials import repository, sealing
from control_plane.credentials.schemas import CredentialChange, CredentialCreate, Rewrapped
from control_plane.credentials.sealing import KeyEncryption, SealBroken
from control_plane.credentials.tables import CredentialRow, DataKey
from control_plane.database import utc_now
from control_plane.identifiers import new_id
from control_plane.tenancy import Scope
from control_plane.tenants.tables import Project
from models.credentials import Credential, allowed
from models.errors import Conflict, InvalidRequest, Unavailable

NOUN = "credential"
TAKEN = "There is a credential for this upstream; change that one."
NO_KEYS = "Credentials cannot be kept here: the operator has configured no key to seal them with."
BROKEN = "The credential cannot be opened; the operator has to see to it."
SHOWN_FROM = 12
RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


async def create(
    scope: Scope, keys: KeyEncryption | None, config: ControlPlaneConfig, body: CredentialCreate
) -> CredentialRow:
    """Raises InvalidRequest for an upstream, project or address that is none of theirs; Conflict, Unavailable."""
    _check_upstream(config, body.upstream)
    _check_address(config, body.upstream, body.base_url)
    if body.project_id is not None:
        await scope.reference(Project, body.project_id, "project", "project_id")
    row = CredentialRow(
        id=new_id("cred"),
        project_id=body.project_id,
        upstream=body.upstream,
        name=body.name,
        base_url=body.base_url,
    )
    await _put(scope, keys, row, body.api_key.get_secret_value())
    scope.add(row)
    await scope.transaction.flush(TAKEN, "upstream")
    return row


async def change(
    scope: Scope, keys: KeyEncryption | None, config: ControlPlaneConfig, credential_id: str, body: CredentialChange
) -> CredentialRow:
    """Rename, rotate, move. Raises NotFound, InvalidRequest, Unavailable."""
    row = await scope.get(CredentialRow, credential_id, NOUN, lock=True)
    row.name = body.name or row.name
    if "base_url" in body.model_fields_set:
        _check_address(config, row.upstream, body.base_url)
        row.base_url = body.base_url
    if body.api_key is not None:
        await _put(scope, keys, row, body.api_key.get_secret_value())
    return row


async def delete(scope: Scope, credential_id: str) -> None:
    """Raises NotFound."""
    await scope.session.delete(await scope.get(CredentialRow, credential_id, NOUN, lock=True))


async def opened(
    scope: Scope, keys: KeyEncryption | None, config: ControlPlaneConfig, project_id: str, upstream: str
) -> Credential | None:
    """What a project's calls go under, None where they go under the platform's own key.

    Raises Conflict where its address is not allowed any more, Unavailable where it cannot be opened.
    """
    row = await repository.of_project(scope, project_id, upstream)
    if row is None:
        return None
    if not _allowed(config, upstream, row.base_url):
        raise Conflict(f"The address of your organisation's credential for '{upstream}' is not allowed any more.")
    try:
        key = await _data_key(scope, keys, await repository.data_key(scope))
        secret = sealing.unseal(key, row.sealed, sealing.place_of(scope.organisation_id, row.id)).decode()
    except SealBroken as error:
        log.error("credential %s of %s cannot be opened: %s", row.id, scope.organisation_id, error)
        raise Unavailable(BROKEN, retry_after_seconds=RETRY_SECONDS) from None
    return Credential.model_validate({"id": row.id, "api_key": secret, "base_url": row.base_url})


async def rewrap(session: AsyncSession, keys: KeyEncryption | None) -> Rewrapped:
    """Have the current key wrap the data keys that a former one wraps. Raises Unavailable."""
    if keys is None:
        raise Unavailable(NO_KEYS)
    done, left, last = 0, 0, ""
    while rows := await repository.wrapped_otherwise(session, keys.current, last):
        for row in rows:
            if await _rewrapped(keys, row):
                done += 1
            else:
                left += 1
        last = rows[-1].id
        await session.flush()
    return Rewrapped(key_id=keys.current, rewrapped=done, remaining=left)


async def _rewrapped(keys: KeyEncryption, row: DataKey) -> bool:
    try:
        plain = await keys.unwrap(row.key_id, row.wrapped, row.organisation_id)
    except SealBroken as error:
        log.error("the data key of %s cannot be re-wrapped: %s", row.organisation_id, error)
        return False
    row.key_id, row.wrapped = keys.current, await keys.wrap(plain, row.organisation_id)
    return True


async def _put(scope: Scope, keys: KeyEncryption | None, row: CredentialRow, secret: str) -> None:
    try:
        key = await _data_key(scope, keys, await repository.data_key(scope))
    except SealBroken as error:
        log.error("the data key of %s cannot be opened: %s", scope.organisation_id, error)
        raise Unavailable(BROKEN, retry_after_seconds=RETRY_SECONDS) from None
    row.sealed = sealing.seal(key, secret.encode(), sealing.place_of(scope.organisation_id, row.id))
    row.last4 = secret[-4:] if len(secret) >= SHOWN_FROM else ""
    row.rotated_at = utc_now()


async def _data_key(scope: Scope, keys: KeyEncryption | None, row: DataKey | None) -> bytes:
    """The organisation's data key, made where there is none. Raises SealBroken, Unavailable."""
    if keys is None:
        raise Unavailable(NO_KEYS)
    if row is None:
        wrapped = await keys.wrap(sealing.new_data_key(), scope.organisation_id)
        row = await repository.keep_data_key(scope, keys.current, wrapped)
    return await keys.unwrap(row.key_id, row.wrapped, scope.organisation_id)


def _check_upstream(config: ControlPlaneConfig, name: str) -> None:
    known = [upstream.name for upstream in config.upstreams]
    if name not in known:
        text = f"There is no hosted upstream of this name; there are: {', '.join(known) or 'none'}."
        raise InvalidRequest(text, param="upstream")


def _allowed(config: ControlPlaneConfig, upstream: str, base_url: str | None) -> bool:
    if base_url is None:
        return True
    return any(allowed(base_url, offer.base_urls) for offer in config.upstreams if offer.name == upstream)


def _check_address(config: ControlPlaneConfig, upstream: str, base_url: str | None) -> None:
    if not _allowed(config, upstream, base_url):
        raise InvalidRequest("The operator does not allow this address for the upstream.", param="base_url")
