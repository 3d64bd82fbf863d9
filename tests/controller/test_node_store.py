"""The table of nodes, in either database."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
from sqlalchemy import select

from i2node.controller.accounts import Accounts
from i2node.controller.envelope import Refusal
from i2node.controller.store.database import Database
from i2node.controller.store.nodes import Nodes, Page
from i2node.controller.store.tables import LogLine, Node, Rule
from i2node.controller.store.users import Users


@pytest.fixture
def nodes(database: Database) -> Nodes:
    for name in ("admin", "operator"):
        Users(database).add(str(uuid.uuid4()).upper(), name, "hash", 1)
    return Nodes(database)


def row(number: int, **other: Any) -> Node:
    """A node; all that must be different is."""
    values: dict[str, Any] = {
        "uuid": f"00000000-0000-0000-0000-{number:012}",
        "name": f"node {number}",
        "random_str": "T0",
        "user_id": 1,
        "created": 100 + number,
        "updated": 100 + number,
        "config_addr": f"10.0.0.{number}",
        "config_port": 26821,
        "data_addr": f"10.0.0.{number}",
        "peer": f"{number:064x}",
        "os_version": "Red Hat 9.4 x86_64",
        "fields": {"node_role": "3", "comment": ""},
    }
    return Node(**values | other)


def rule(database: Database, wk: int, bk: int) -> None:
    with database.writing() as session:
        ids = {row[0]: row[1] for row in session.execute(select(Node.name, Node.id))}
        made = Rule(uuid="R", name="the rule", random_str="", user_id=2, fields={}, want="run")
        made.wk_id, made.bk_id = ids[f"node {wk}"], ids[f"node {bk}"]
        made.created = made.updated = 1
        session.add(made)


def test_a_node_is_kept_as_it_was_added(nodes: Nodes, database: Database) -> None:
    nodes.add(row(1, fields={"node_role": "1", "rep_path": ["/", "/\xe4\U0001f600"]}))
    found = nodes.find(row(1).uuid)
    assert found is not None
    assert (found.node.name, found.user.name) == ("node 1", "admin")
    assert found.node.fields["rep_path"] == ["/", "/\xe4\U0001f600"]
    assert nodes.at("10.0.0.1", 26821) == found.node.uuid
    assert nodes.at("10.0.0.1", 26822) is None and nodes.find("none") is None
    with database.reading() as session:
        (line,) = session.scalars(select(LogLine))
    assert (line.node, line.operation, line.at, line.level) == (found.node.uuid, "create", 101, 2)


@pytest.mark.parametrize(
    ("other", "code", "told"),
    [
        ({"name": "node 1"}, 10001009, "a node node 1 already"),
        ({"config_addr": "10.0.0.1"}, 10011109, "10.0.0.1:26821 is registered already, as node 1"),
        ({"peer": f"{1:064x}"}, 10011109, "this host is registered already, as node node 1"),
    ],
)
def test_two_nodes_are_two(nodes: Nodes, other: dict[str, Any], code: int, told: str) -> None:
    nodes.add(row(1))
    for add in (nodes.check_apart, nodes.add):
        with pytest.raises(Refusal) as refused:
            add(row(2, **other))
        assert refused.value.number == code and told.replace("as node 1", "as node") in str(
            refused.value
        )
    nodes.add(row(2, config_addr="10.0.0.1", config_port=1))
    with pytest.raises(Refusal) as refused:
        nodes.replace("T0", row(2, **other))
    assert refused.value.number == code


def test_of_those_that_are_added_at_once_one_is(nodes: Nodes) -> None:
    barrier, told = threading.Barrier(4), []

    def add(number: int) -> None:
        barrier.wait()
        try:
            nodes.add(row(number, config_addr="10.9.9.9"))
            told.append(0)
        except Refusal as refusal:
            told.append(refusal.number)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [0, 10011109, 10011109, 10011109]


def names(nodes: Nodes, **asked: Any) -> list[str]:
    found, total = nodes.page(Page(**asked))
    assert total >= len(found)
    return [kept.node.name for kept in found]


def test_a_list_is_ordered_searched_and_cut(nodes: Nodes) -> None:
    for number in (1, 2, 3, 10):
        nodes.add(row(number, user_id=1 + number % 2, fields={"node_role": str(number % 3 + 1)}))
    every = ["node 1", "node 2", "node 3", "node 10"]
    assert names(nodes) == every
    assert names(nodes, descending=True) == every[::-1]
    assert names(nodes, order="node_name", descending=True) == [
        *("node 3", "node 2", "node 10", "node 1")
    ]
    assert names(nodes, limit=2) == every[:2]
    assert names(nodes, limit=3, page=2) == every[3:]
    assert names(nodes, limit=3, page=3) == []
    assert names(nodes, contains={"node_name": "NODE 1"}) == ["node 1", "node 10"]
    assert names(nodes, contains={"node_name": "%"}) == []
    assert names(nodes, contains={"username": "oper"}) == ["node 1", "node 3"]
    assert names(nodes, equals={"node_role": "2"}) == ["node 1", "node 10"]
    assert names(nodes, equals={"config_port": "26821"}, contains={"node_role": "3"}) == ["node 2"]
    assert nodes.page(Page(limit=1, equals={"username": "admin"}))[1] == 2


def test_an_edit_needs_the_newest_token(nodes: Nodes) -> None:
    nodes.add(row(1))
    nodes.replace("T0", row(1, name="other", random_str="T1", updated=500))
    found = nodes.find(row(1).uuid)
    assert found is not None
    assert (found.node.name, found.node.orders, found.node.created) == ("other", 1, 101)
    for token in ("T0", ""):
        with pytest.raises(Refusal) as refused:
            nodes.replace(token, row(1, name="third"))
        assert refused.value.number == 10001013
    with pytest.raises(Refusal) as refused:
        nodes.replace("T0", row(2))
    assert refused.value.number == 10011001


def test_a_node_of_a_rule_stays_as_it_is(nodes: Nodes, database: Database) -> None:
    for number in (1, 2, 3):
        nodes.add(row(number))
    rule(database, 1, 2)
    for number in (1, 2):
        for other in ({"config_addr": "x"}, {"data_addr": "x"}, {"peer": "x"}, {"fields": {}}):
            with pytest.raises(Refusal, match=rf"node {number} takes part in rule the rule"):
                nodes.replace("T0", row(number, **other))
        with pytest.raises(Refusal, match=rf"node {number} takes part in rule the rule"):
            nodes.remove([row(3).uuid, row(number).uuid], 1)
        fields = {"node_role": "3", "comment": "of a rule"}
        nodes.replace("T0", row(number, name=f"renamed {number}", fields=fields))
    nodes.replace("T0", row(3, config_addr="elsewhere", random_str="T1"))
    assert names(nodes) == ["renamed 1", "renamed 2", "node 3"]  # none was removed
    nodes.remove([row(3).uuid, row(3).uuid], 1)
    assert names(nodes) == ["renamed 1", "renamed 2"]
    with pytest.raises(Refusal) as refused:
        nodes.remove([row(3).uuid], 1)
    assert refused.value.number == 10011001


def test_what_is_heard_of_nodes(nodes: Nodes) -> None:
    for number in (1, 2):
        nodes.add(row(number, version=f"0.{number}"))
    one, two = row(1).uuid, row(2).uuid
    assert list(nodes.versions([two, "none", one]).items()) == [(two, "0.2"), (one, "0.1")]
    nodes.heard(one, "Debian 12 x86_64", 700)
    found = nodes.find(one)
    assert found is not None
    assert (found.node.os_version, found.node.seen) == ("Debian 12 x86_64", 700)


def test_who_owns_something_stays(nodes: Nodes, database: Database) -> None:
    accounts = Accounts(Users(database))
    for number in (1, 2):
        nodes.add(row(number))
    rule(database, 1, 2)
    for name, what in (("admin", "node node 1"), ("operator", "rule the rule")):
        with pytest.raises(Refusal, match=f"{name} is the owner of {what}: delete that first"):
            accounts.remove(name)
    assert accounts.names() == ["admin", "operator"]
