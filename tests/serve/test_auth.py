"""The cache of keys: what it believes, for how long, and what it forgets."""

import asyncio
import time
from collections.abc import Callable

import pytest

from models.errors import Unauthenticated, Unavailable
from models.identity import Principal
from serve.auth import Authenticator
from serve.config import KeyCache

KEY = b"Bearer good"
SECONDS_MAX = 5.0


class Directory:
    """The control plane as a function: counts its questions, answers from ``keys``, waits at ``gate``; and the time."""

    def __init__(self) -> None:
        self.keys = {"good": principal()}
        self.asked = 0
        self.now = 1_000.0
        self.away = False
        self.gate: asyncio.Event | None = None

    async def __call__(self, key: str) -> Principal:
        self.asked += 1
        found = self.keys.get(key)
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise Unavailable("away")
        if found is None:
            raise Unauthenticated("no")
        return found


def principal(key: str = "key_a", organisation: str = "org_a", expires_at: int | None = None) -> Principal:
    return Principal(organisation_id=organisation, project_id="p", api_key_id=key, expires_at=expires_at)


def cache(directory: Directory, *, hears: bool = True, **limits: float) -> Authenticator:
    authenticator = Authenticator(directory, KeyCache.model_validate(limits), lambda: directory.now)
    if hears:
        authenticator.hears()
    return authenticator


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


async def test_a_key_is_asked_about_once_however_many_wait() -> None:
    directory = Directory()
    directory.gate = asyncio.Event()
    authenticator = cache(directory)
    calls = [asyncio.ensure_future(authenticator.authenticate(KEY)) for _ in range(20)]
    await until(lambda: directory.asked == 1)
    calls[0].cancel()
    directory.gate.set()
    found = await asyncio.gather(*calls[1:])
    assert {each.api_key_id for each in found} == {"key_a"}
    assert calls[0].cancelled()
    await authenticator.authenticate(KEY)
    assert directory.asked == 1


async def test_a_wrong_key_is_remembered_for_a_moment_only() -> None:
    directory = Directory()
    authenticator = cache(directory, refused_seconds_max=2.0)
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(b"Bearer new")
    assert directory.asked == 1
    directory.keys["new"] = principal("key_new")
    directory.now += 2.0
    assert (await authenticator.authenticate(b"Bearer new")).api_key_id == "key_new"


async def test_an_expired_key_is_refused_from_the_cache() -> None:
    directory = Directory()
    directory.keys |= {"good": principal(expires_at=int(time.time()) + 1), "old": principal(expires_at=1)}
    authenticator = cache(directory)
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(b"Bearer old")

    async def admitted() -> bool:
        try:
            return bool(await authenticator.authenticate(KEY))
        except Unauthenticated:
            return False

    assert await admitted()
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            if not await admitted():
                break
            await asyncio.sleep(0.01)
    assert directory.asked == 2


@pytest.mark.parametrize(
    ("message", "forgotten"),
    [
        ("key:key_a", {"good"}),
        ("organisation:org_a", {"good", "sibling"}),
        ("key:key_other", set()),
        ("everything", {"good", "sibling", "stranger"}),
    ],
)
async def test_an_invalidation_forgets_what_it_names(message: str, forgotten: set[str]) -> None:
    directory = Directory()
    directory.keys |= {"sibling": principal("key_b"), "stranger": principal("key_c", "org_b")}
    authenticator = cache(directory)
    for key in directory.keys:
        await authenticator.authenticate(b"Bearer " + key.encode())
    authenticator.invalidate(message)
    again: set[str] = set()
    for key in directory.keys:
        before = directory.asked
        await authenticator.authenticate(b"Bearer " + key.encode())
        again |= {key} if directory.asked > before else set()
    assert again == forgotten


async def test_an_answer_under_way_when_an_invalidation_came_is_not_kept() -> None:
    directory = Directory()
    directory.gate = asyncio.Event()
    authenticator = cache(directory)
    call = asyncio.ensure_future(authenticator.authenticate(KEY))
    await until(lambda: directory.asked == 1)
    authenticator.invalidate("key:key_a")
    directory.keys.clear()
    directory.gate.set()
    await call
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(KEY)


async def test_what_was_asked_before_hearing_began_is_believed_shortly() -> None:
    directory = Directory()
    authenticator = cache(directory, hears=False, unheard_seconds_max=1.0)
    await authenticator.authenticate(KEY)
    directory.now += 0.1
    authenticator.hears()
    directory.now += 1.5
    await authenticator.authenticate(KEY)
    assert directory.asked == 2
    directory.now += 1.5
    await authenticator.authenticate(KEY)
    assert directory.asked == 2
    authenticator.deaf()
    await authenticator.authenticate(KEY)
    assert directory.asked == 3


async def test_the_control_plane_away_known_keys_serve_on_and_it_is_not_asked_each_time() -> None:
    directory = Directory()
    authenticator = cache(directory, age_seconds_max=1.0)
    await authenticator.authenticate(KEY)
    directory.away = True
    directory.now += 1.5
    for _ in range(5):
        assert (await authenticator.authenticate(KEY)).api_key_id == "key_a"
    assert directory.asked == 2
    authenticator.deaf()
    await authenticator.authenticate(KEY)
    assert directory.asked == 2
    with pytest.raises(Unavailable):
        await authenticator.authenticate(b"Bearer unknown")
    authenticator.invalidate("key:key_a")
    with pytest.raises(Unavailable):
        await authenticator.authenticate(KEY)


async def test_a_stale_key_serves_for_so_long_only() -> None:
    directory = Directory()
    authenticator = cache(directory, age_seconds_max=1.0, stale_seconds_max=60.0)
    await authenticator.authenticate(KEY)
    directory.away = True
    directory.now += 61.0
    with pytest.raises(Unavailable):
        await authenticator.authenticate(KEY)


async def test_the_cache_is_bounded_and_forgets_the_longest_unasked() -> None:
    directory = Directory()
    directory.keys |= {f"k{number}": principal(f"key_{number}") for number in range(3)}
    authenticator = cache(directory, entries_max=2)
    for number in range(3):
        await authenticator.authenticate(f"Bearer k{number}".encode())
    await authenticator.authenticate(b"Bearer k2")
    assert directory.asked == 3
    await authenticator.authenticate(b"Bearer k0")
    assert directory.asked == 4


@pytest.mark.parametrize("given", [None, b"", b"Bearer", b"Bearer  ", b"Token good", b"good"])
async def test_a_header_without_a_key(given: bytes | None) -> None:
    with pytest.raises(Unauthenticated, match="did not provide"):
        await cache(Directory()).authenticate(given)


@pytest.mark.parametrize("given", [b"bearer good", b"BEARER   good ", b" Bearer good"])
async def test_the_scheme_in_any_case_with_any_spaces(given: bytes) -> None:
    assert (await cache(Directory()).authenticate(given)).api_key_id == "key_a"
