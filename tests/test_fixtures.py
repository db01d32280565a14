"""The shared servers do what the other tests take for granted."""

import psycopg
import pytest
import redis


def test_a_database_is_fresh_and_may_be_copied(postgres_server, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE seen (n int)")
    copy, fresh = postgres_server.create_database(template=postgres_url), postgres_server.create_database()
    with psycopg.connect(copy) as connection:
        assert connection.execute("SELECT count(*) FROM seen").fetchone() == (0,)
    with psycopg.connect(fresh) as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT count(*) FROM seen")


@pytest.mark.parametrize("attempt", [1, 2])
def test_redis_is_empty_at_each_start(redis_url: str, attempt: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.incr("seen", attempt) == attempt


def test_a_private_redis_may_be_stopped_and_started(start_redis) -> None:
    server = start_redis()
    server.stop()
    with redis.Redis.from_url(server.url) as client:
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert client.ping()
