"""Runs beside the SDK, in a process of its own: one call a line of stdin, its envelope on stdout.

{"of": "info2soft.fsp.FspBackup.FspBackup", "call": "listFspBackup", "with": {...}}
"""

from __future__ import annotations

import importlib
import json
import sys

import aim  # noqa: F401  says where the controller is
from info2soft.common.Auth import Auth

auth = Auth("admin", "Info1234")
for line in sys.stdin:
    asked = json.loads(line)
    module, _, name = asked["of"].rpartition(".")
    maker = getattr(importlib.import_module(module), name)
    envelope, _ = getattr(maker(auth), asked["call"])(asked["with"])
    print("=" + json.dumps(envelope), flush=True)
