"""The business codes of the API, which stand in `data.code` of every answer."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """8 digits: 10, two of the area (00 all, 01 nodes, 03 and 06 rules), four of the case."""

    text: str

    def __new__(cls, value: int, text: str) -> Code:
        self = int.__new__(cls, value)
        self._value_ = value
        self.text = text
        return self

    SUCCESS = 0, "success"
    INVALID = 10001002, "Invalid Parameter"
    BAD_NAME = 10001008, "the name is not allowed"
    NAME_EXISTS = 10001009, "the name exists already"
    NO_SUCH_ITEM = 10001011, "the item does not exist"
    FAILED = 10001012, "the operation failed"
    CHANGED = 10001013, "the entry has been changed, please refresh"
    NODE_ANSWER = 10001015, "the node returned an error"
    STORE_FAILED = 10001017, "the database failed"
    NOT_ENABLED = 10001021, "the feature is not enabled"
    TOKEN_INVALID = 10001108, "the access token is invalid"
    REFRESH_INVALID = 10001109, "the refresh token is invalid"
    NO_SUCH_USER = 10001110, "the user does not exist"
    DENIED = 10001142, "permission denied"
    LOCKED_OUT = 10001174, "too many failed logins"
    TWO_KEYS = 10001160, "a user has at most two pairs of keys"
    NO_SUCH_NODE = 10011001, "the node does not exist"
    ADDRESS_TAKEN = 10011109, "the management address is registered already"
    NO_CAPACITY = 10011201, "the capacity of the node cannot be read"
    NODE_OFFLINE = 10011202, "the node is offline"
    NODE_DENIES = 10011203, "the node's authentication failed"
    NO_SUCH_RULE = 10031017, "the rule does not exist"
    OLD_RULE = 10061104, "work or backup node has a full-server rule already: delete it first"
    UNREACHABLE = 11110001, "the call failed, the node cannot be connected to"
    NO_LINK = 11111001, "the call failed, there is no connection to the node"
    NO_SUCH_KEY = 10001162, "the access key does not exist"


LATER = 1_000_000_000
"""Consoles from 8.0 on put another 10 before each code."""
