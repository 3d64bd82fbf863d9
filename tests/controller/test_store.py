"""The tables, in either database."""

from __future__ import annotations

import threading
import uuid

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from i2node.controller.store.database import Database
from i2node.controller.store.leases import Leases
from i2node.controller.store.tables import Table
from i2node.controller.store.users import Users
from i2node.errors import UsageError


def test_the_migrations_make_the_tables_that_are_used(url: str, database: Database) -> None:
    engine = create_engine(url)
    with engine.connect() as connection:
        strict = connection.dialect.name != "sqlite"  # whose types are hints
        context = MigrationContext.configure(connection, opts={"compare_type": strict})
        assert compare_metadata(context, Table.metadata) == []
    engine.dispose()


def test_two_that_start_at_once_migrate_once(url: str) -> None:
    made: list[Database] = []
    threads = [threading.Thread(target=lambda: made.append(Database(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    for database in made:
        assert Users(database).count() == 0
        database.close()


def test_what_is_counted_by_several_is_counted_right(database: Database) -> None:
    users = Users(database)
    users.add("U", "admin", "hash", 1)
    user = users.find("admin")
    assert user is not None
    threads = [
        threading.Thread(target=lambda: [users.failed(user.id, 5, 60) for _ in range(5)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = users.find("admin")
    assert found is not None and found.failures == 20


def test_a_name_is_taken_once(database: Database) -> None:
    users = Users(database)
    barrier, made = threading.Barrier(4), []

    def add() -> None:
        barrier.wait()
        made.append(users.add(str(uuid.uuid4()), "operator", "hash", 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, False, True]


def test_a_lease_is_one_holders_until_it_ends(database: Database) -> None:
    leases = Leases(database)
    assert leases.take("fleet", "one", 60.0)
    assert not leases.take("fleet", "two", 60.0)
    assert leases.take("fleet", "one", 0.0)  # renewed, for no time at all
    assert leases.take("fleet", "two", 60.0)
    leases.give_back("fleet", "one")  # not his
    assert not leases.take("fleet", "one", 60.0)
    leases.give_back("fleet", "two")
    assert leases.take("fleet", "one", 60.0)


def test_a_lease_that_all_want_at_once_is_one_holders(database: Database) -> None:
    leases = Leases(database)
    for round_ in range(5):
        barrier, took = threading.Barrier(4), []

        def take(holder: str, name: str, barrier: threading.Barrier, took: list[str]) -> None:
            barrier.wait()
            if leases.take(name, holder, 60.0):
                took.append(holder)

        threads = [
            threading.Thread(target=take, args=(str(number), f"l{round_}", barrier, took))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(took) == 1


def test_a_database_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(UsageError) as caught:
        Database("postgresql+psycopg://me:hidden@127.0.0.1:1/none")
    assert "127.0.0.1:1" in caught.value.cause and "hidden" not in str(caught.value)
