"""The vendor's SDK as it is published, against a controller."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from console import Console
from field import agents


def run(sdk: Path, console: Console, module: str) -> None:
    """Runs one of its own test modules; all of them must pass, and be some."""
    env = os.environ | {"PYTHONPATH": str(sdk), "I2HOST": console.url}
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-p", "aim", "-c", "/dev/null"),
            *("-p", "no:cacheprovider", f"--rootdir={sdk}", str(sdk / "info2soft" / module)),
        ],
        check=False,
        cwd=sdk,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr + console.log.read_text()
    assert re.search(r"^\d+ passed", done.stdout.splitlines()[-1]), done.stdout


def test_its_tests_of_logging_in(sdk: Path, console: Console) -> None:
    run(sdk, console, "common/test/v20190104/AuthTest.py")


@pytest.mark.parametrize(
    "module", ["resource/test/v20190104/NodeTest.py", "common/test/v20190104/DirTest.py"]
)
def test_its_tests_of_nodes(sdk: Path, console: Console, module: str) -> None:
    run(sdk, console, module)


def test_a_node_through_it(sdk: Path, console: Console, tmp_path: Path) -> None:
    """Registered, changed by its helper that looks for the token itself, listed, removed."""
    with agents(tmp_path, "wk") as (wk,):
        text = f"""
from info2soft.common.Auth import Auth
from info2soft.resource.v20181227.Node import Node
node = Node(Auth('admin', 'Info1234'))
def data(answer):
    assert answer[0]['data']['code'] == 0, answer[0]
    return answer[0]['data']
record = {{'config_addr': '127.0.0.1', 'config_port': {wk.port}, 'node_name': 'wk'}}
proof = {{'i2id': {wk.code!r}, 'os_user': '', 'os_pwd': ''}}
told = data(node.authNode({{**record, **proof}}))
data(node.createNode({{'node': {{**record, 'cache_path': told['cache_path']}}}}))
(found,) = data(node.listNode({{'search_field': 'node_name', 'search_value': 'wk'}}))['info_list']
uuid = found['node_uuid']
change = {{'node_uuid': uuid, 'os_pwd': '', **record, 'comment': 'through the SDK'}}
data(node.modifyNode({{'node': change}}))
kept = data(node.describeNode({{'node_uuid': uuid}}))['node']
(state,) = data(node.listNodeStatus({{'node_uuids': [uuid]}}))['status']
data(node.deleteNode({{'node_uuids': [uuid]}}))
print(kept['comment'], state['status'], data(node.listNode({{}}))['total'])
"""
        assert script(sdk, console, text) == "through the SDK ONLINE 0"


@pytest.mark.parametrize(
    "module", ["fsp/test/FspBackupTest.py", "fsp/test/v20220622/FspBackupTest.py"]
)
def test_its_tests_of_full_server_protection(sdk: Path, console: Console, module: str) -> None:
    run(sdk, console, module)


def script(sdk: Path, console: Console, text: str) -> str:
    """What a script prints that uses the SDK."""
    env = os.environ | {"PYTHONPATH": str(sdk), "I2HOST": console.url}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import aim\n{text}"],
        check=True,
        cwd=sdk,
        env=env,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip().splitlines()[-1]


def test_a_password_travels_sealed(sdk: Path, console: Console) -> None:
    sealed = script(
        sdk, console, "from info2soft.common.Rsa import Rsa\nprint(Rsa().rsaEncrypt('Info1234'))"
    )
    assert len(sealed) == 344
    console.log_in(password=sealed)


def test_it_logs_in_with_a_pair_of_keys(sdk: Path, console: Console) -> None:
    console.log_in()
    pair = console.data("POST", "/api/ak", {})
    text = f"""
from info2soft.common.Auth import Auth
a = Auth.ak({pair["access_key"]!r}, {pair["secret_key"]!r})
print(a.heartbeat({{}})[0]['data']['username'])
"""
    assert script(sdk, console, text) == "admin"


def test_a_login_that_is_over_is_refreshed(sdk: Path, console: Console) -> None:
    """The controller forgets the access token; the SDK gets another for its refresh token."""
    text = """
from info2soft.common.Auth import Auth
a = Auth('admin', 'Info1234')
before = a.token
a._token = a.token = 'no-token-of-this-server'
r = a.heartbeat({})
print(r[0]['data']['username'], a.token not in (before, 'no-token-of-this-server'))
"""
    assert script(sdk, console, text) == "admin True"
