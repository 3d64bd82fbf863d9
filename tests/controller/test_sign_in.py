"""Logging in, tokens, keys and signatures, over HTTP."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import time
import urllib.request
import uuid
from pathlib import Path

import pytest
from console import PASSWORD, Console, started

from i2node.controller.accounts import FAILURES


def signed(
    method: str, path: str, key: str, chance: str = "3f0489b8", stamp: float | None = None
) -> dict[str, str]:
    """The headers of a signed call."""
    told = str(time.time() if stamp is None else stamp)
    nonce = str(uuid.uuid4())
    text = "\n".join((method, path, chance, told, nonce))
    signature = hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()
    return {"timestamp": told, "nonce": nonce, "Signature": signature}


def test_every_answer_has_the_envelope(console: Console) -> None:
    assert console.data("GET", "/api/version")["code"] == 0
    for path in ("/api/nothing", "/nothing", "/"):
        status, envelope = console.ask("GET", path)
        assert (status, envelope["ret"], envelope["msg"]) == (404, 404, "")
        assert envelope["data"]["message"].startswith(f"[{envelope['data']['code']}] ")
    assert console.ask("DELETE", "/api/version")[0] == 405


def test_paths_are_taken_as_clients_write_them(console: Console) -> None:
    body = {"username": "admin", "pwd": PASSWORD}
    for path in ("/api//auth/token", "/apiauth/token", "//api/auth//token"):
        assert console.data("POST", path, body)["code"] == 0


def test_what_is_missing_is_named(console: Console) -> None:
    found = console.data("POST", "/api/auth/token", {"pwd": ""})
    assert found == {
        "code": 10001002,
        "message": "[10001002] Invalid Parameter  Lost: username;\nLost: pwd;\n",
    }


def test_what_is_no_json_is_refused(console: Console) -> None:
    for body in (b"{", b"[1]", b'"text"', b"\xff", b"[" * 100_000):
        request = urllib.request.Request(f"{console.url}/auth/token", body, method="POST")
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["data"]["code"] == 10001002


def test_a_body_without_end_is_cut_off(console: Console) -> None:
    request = urllib.request.Request(f"{console.url}/auth/token", b" " * (9 << 20), method="POST")
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["data"]["code"] == 10001002


def test_a_token_is_asked_for(console: Console) -> None:
    for token in ("", "nobodys"):
        console.token = token
        status, envelope = console.ask("PUT", "/api/auth/heartbeat", {})
        assert (status, envelope["ret"], envelope["data"]["code"]) == (403, 403, 10001108)


def test_a_login_outlives_a_restart(console: Console, home: Path) -> None:
    tokens = console.log_in()
    assert console.stop() == 0
    again = started(home)
    try:
        again.token = tokens["token"]
        assert again.data("PUT", "/api/auth/heartbeat", {})["username"] == "admin"
        assert "administrator-created" not in again.log.read_text()
    finally:
        assert again.stop() == 0


def test_a_refresh_leaves_the_old_tokens_a_while(console: Console) -> None:
    old = console.log_in()
    body = {"refresh_token": old["refresh_token"]}
    new = console.data("PUT", "/api/auth/refresh_token", body)
    assert new["code"] == 0 and new["token"] != old["token"]
    assert console.data("PUT", "/api/auth/refresh_token", body)["code"] == 0
    for tokens in (old, new):
        console.token = tokens["token"]
        assert console.data("PUT", "/api/auth/heartbeat", {})["username"] == "admin"
        found = console.data("GET", f"/api/auth/token?access_token={tokens['sso_token']}")
        assert found["username"] == "admin"
    body = {"refresh_token": old["token"]}
    assert console.data("PUT", "/api/auth/refresh_token", body)["code"] == 10001109


def test_logging_out_ends_it(console: Console) -> None:
    console.log_in()
    assert console.data("DELETE", "/api/auth/token", {})["code"] == 0
    assert console.ask("PUT", "/api/auth/heartbeat", {})[0] == 403


def test_who_fails_too_often_is_locked_out(console: Console) -> None:
    wrong = {"username": "admin", "pwd": "not-that-one"}
    for _ in range(FAILURES):
        assert console.data("POST", "/api/auth/token", wrong)["code"] == 10001012
    right = {"username": "admin", "pwd": PASSWORD}
    assert console.data("POST", "/api/auth/token", right)["code"] == 10001174
    nobody = {"username": "nobody", "pwd": PASSWORD}
    assert console.data("POST", "/api/auth/token", nobody)["code"] == 10001012


def test_a_signature_is_checked(console: Console) -> None:
    console.log_in()
    path = "/api/ak?_=3f0489b8"
    good = signed("GET", "/api/ak", console.token)
    assert console.ask("GET", path, headers=good)[1]["data"]["code"] == 0
    again = console.ask("GET", path, headers=good)[1]["data"]
    assert again["code"] == 10001142 and "made before" in again["message"]
    for bad in (
        signed("GET", "/api/ak", "another key"),
        signed("PUT", "/api/ak", console.token),
        signed("GET", "/api/ak", console.token, chance="other"),
        signed("GET", "/api/ak", console.token, stamp=time.time() - 3600),
        signed("GET", "/api/ak", console.token) | {"nonce": ""},
    ):
        assert console.ask("GET", path, headers=bad)[1]["data"]["code"] == 10001142


def test_a_client_that_cannot_sign_right_has_its_token(console: Console) -> None:
    """It signs a random number that it does not send."""
    console.log_in()
    headers = signed("GET", "/api/ak", console.token)
    assert console.ask("GET", "/api/ak", headers=headers)[1]["data"]["code"] == 0
    php = signed("GET", "/api/ak", console.token, chance="0.1") | {"User-Agent": "info2softPHP/1"}
    assert console.ask("GET", "/api/ak?_=0.10", headers=php)[1]["data"]["code"] == 0


def test_a_strict_controller_takes_none_that_is_not_signed(home: Path) -> None:
    etc = home / "etc" / "controller"
    etc.mkdir(parents=True)
    (etc / "controller.toml").write_text(
        "http_port = 0\nhttps_port = 0\nenroll_port = 0\nstrict_signatures = true\n"
    )
    console = started(home)
    try:
        console.log_in()
        assert console.data("GET", "/api/ak")["code"] == 10001142
        headers = signed("GET", "/api/ak", console.token)
        assert console.ask("GET", "/api/ak?_=3f0489b8", headers=headers)[1]["data"]["code"] == 0
    finally:
        assert console.stop() == 0


def test_keys_sign_for_their_user(console: Console) -> None:
    console.log_in()
    pair = console.data("POST", "/api/ak", {})
    other = console.data("POST", "/api/ak", {})
    assert console.data("POST", "/api/ak", {})["code"] == 10001160
    console.token = ""
    key = {"ACCESS-KEY": pair["access_key"]}
    headers = key | signed("GET", "/api/ak", pair["secret_key"])
    found = console.ask("GET", "/api/ak?_=3f0489b8", headers=headers)[1]["data"]
    assert [one["access_key"] for one in found["info_list"]] == [
        pair["access_key"],
        other["access_key"],
    ]
    assert pair["secret_key"] not in json.dumps(found)
    wrong = key | signed("GET", "/api/ak", other["secret_key"])
    assert console.ask("GET", "/api/ak?_=3f0489b8", headers=wrong)[1]["data"]["code"] == 10001142
    unknown = {"ACCESS-KEY": "none"} | signed("GET", "/api/ak", "")
    assert console.ask("GET", "/api/ak?_=3f0489b8", headers=unknown)[1]["data"]["code"] == 10001162
    headers = key | signed("DELETE", "/api/ak", pair["secret_key"])
    body = {"access_key": pair["access_key"], "_": "3f0489b8"}
    assert console.ask("DELETE", "/api/ak", body, headers)[1]["data"]["code"] == 0
    headers = key | signed("GET", "/api/ak", pair["secret_key"])
    assert console.ask("GET", "/api/ak?_=3f0489b8", headers=headers)[1]["data"]["code"] == 10001162


def test_the_database_and_the_log_hold_no_secret(console: Console) -> None:
    tokens = console.log_in()
    pair = console.data("POST", "/api/ak", {})
    held = b"".join(file.read_bytes() for file in console.home.rglob("var/**/controller.db*"))
    held += console.log.read_bytes()
    assert pair["access_key"].encode() in held
    secrets = (PASSWORD, tokens["token"], tokens["refresh_token"], pair["secret_key"])
    for secret in secrets:
        assert secret.encode() not in held
    for file in ("vault.key", "login.pem", "identity/node.pem"):
        assert (console.home / "etc" / "controller" / file).stat().st_mode & 0o777 == 0o600


def test_https_has_a_certificate_of_its_own(console: Console) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    url = f"https://127.0.0.1:{console.https}/api/version"
    with urllib.request.urlopen(url, context=context) as answer:
        assert json.load(answer)["data"]["code"] == 0


def test_the_api_describes_itself(console: Console) -> None:
    with urllib.request.urlopen(f"{console.url}/openapi.json") as answer:
        paths = json.load(answer)["paths"]
    assert {"/api/auth/token", "/api/version", "/api/sys/public_settings"} <= paths.keys()


@pytest.mark.parametrize("name", ["http_port", "https_port"])
def test_a_port_that_is_taken_is_named(console: Console, tmp_path: Path, name: str) -> None:
    home = tmp_path / "other"
    (home / "etc" / "controller").mkdir(parents=True)
    ports = {"http_port": 0, "https_port": 0, "enroll_port": 0} | {
        name: getattr(console, name.removesuffix("_port"))
    }
    text = "".join(f"{key} = {value}\n" for key, value in ports.items())
    (home / "etc" / "controller" / "controller.toml").write_text(text)
    with pytest.raises(AssertionError, match=f"listening on .*:{ports[name]}: .*in use"):
        started(home)
