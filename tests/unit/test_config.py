import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2node.config import Config, ControllerConfig, Limits
from i2node.errors import UsageError

SAMPLE = Path(__file__).parents[2] / "packaging" / "i2node.toml"
CONTROLLERS = Path(__file__).parents[2] / "packaging" / "controller.toml"
KEYS = [item.name for item in fields(Config) if item.name not in ("etc", "var")]


def written(home: Path, text: str, name: str = "i2node.toml") -> Path:
    (home / "etc").mkdir(exist_ok=True)
    path = home / "etc" / name
    path.write_text(text)
    return path


def test_the_system_has_fixed_places():
    config = Config()
    assert (config.etc, config.var) == (Path("/etc/sdata"), Path("/var/i2data"))
    assert config.listen_port == 26821 and config.small_file_max == 262144


def test_a_home_without_a_file_has_the_defaults(tmp_path):
    assert Config.load(tmp_path) == Config(etc=tmp_path / "etc", var=tmp_path / "var")


def test_values_are_read(tmp_path):
    written(tmp_path, 'allow_roots = ["/backup", "/srv/b"]\ncheckpoint_s = 2\nlog_level = "debug"')
    config = Config.load(tmp_path)
    assert config.allow_roots == (Path("/backup"), Path("/srv/b"))
    assert config.checkpoint_s == 2.0 and isinstance(config.checkpoint_s, float)
    assert config.log_level == "debug"


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("listen_prot = 1", "unknown key 'listen_prot'", "'listen_port'"),
        ("zzz = 1", "unknown key 'zzz'", "known keys: allow_roots"),
        ("[listen]\nport = 1", "unknown key 'listen'", "listen_"),
        ('listen_port = "26821"', "listen_port is '26821'", "a whole number from 0 to 65535"),
        ("listen_port = 65536", "listen_port is 65536", "from 0 to 65535"),
        ("listen_port = true", "listen_port is True", "a whole number"),
        ("checkpoint_s = nan", "checkpoint_s is nan", "a number from 0.05"),
        ("frame_bytes = 1.5", "frame_bytes is 1.5", "a whole number"),
        ("listen_host = 1", "listen_host is 1", "a string"),
        ('log_format = "xml"', "log_format is 'xml'", "one of text, json"),
        ('log_level = "loud"', "log_level is 'loud'", "one of debug, info"),
        ('allow_roots = "/a"', "allow_roots is '/a'", "a list of absolute directories"),
        ('allow_roots = ["a"]', "allow_roots is 'a'", "a list of absolute directories"),
        ('allow_roots = ["/a/../b"]', "allow_roots is '/a/../b'", "a list of absolute"),
        ("listen_port", "not TOML", "sample"),
        pytest.param("brakes = " + "[" * 5000, "not TOML", "sample", id="nested"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, cause, remedy):
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        Config.load(tmp_path)
    assert str(path) in caught.value.cause
    assert cause in caught.value.cause and remedy in caught.value.remedy
    assert caught.value.exit_status == 2


def test_a_file_given_by_name_must_be_there(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        Config.load(tmp_path, tmp_path / "absent.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        Config.load(tmp_path, tmp_path / "x.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        Config.load(tmp_path, tmp_path)


@pytest.mark.parametrize(
    "text", ["2222\n", "port=2222", " # x\nport = 2222 # y", "mir_port = 9\nrpc = 2222\n"]
)
def test_the_port_file_gives_the_port_unless_the_configuration_does(tmp_path, text):
    written(tmp_path, text, "i2port.conf")
    assert Config.load(tmp_path).listen_port == 2222
    written(tmp_path, "listen_port = 3333")
    assert Config.load(tmp_path).listen_port == 3333


@pytest.mark.parametrize("text", ["", "# 2222\n", "mir_port = 26832\n"])
def test_a_port_file_without_our_port_says_nothing(tmp_path, text):
    written(tmp_path, text, "i2port.conf")
    assert Config.load(tmp_path).listen_port == 26821


@pytest.mark.parametrize("text", ["port=", "port=0", "65536", "port = x", "what is this", "²"])
def test_a_port_that_is_none_is_an_error(tmp_path, text):
    path = written(tmp_path, text, "i2port.conf")
    with pytest.raises(UsageError, match=re.escape(str(path))):
        Config.load(tmp_path)


@given(
    st.sampled_from(KEYS), st.one_of(st.integers(), st.booleans(), st.just('"x"'), st.just("[]"))
)
def test_any_value_is_taken_or_named(tmp_path_factory, key, value):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    path.write_text(f"{key} = {text}\n")
    try:
        config = Config.load(None, path)
    except UsageError as error:
        assert (f"{path}: " in error.cause and "expected" in error.remedy) or "TOML" in error.cause
    else:
        assert type(getattr(config, key)) is type(getattr(Config(), key))


def test_the_sample_parses_and_changes_nothing():
    assert Config.load(None, SAMPLE) == Config()


def test_the_sample_shows_every_key_with_its_default(tmp_path):
    """Its commented settings, taken together, are the defaults: all of them, and no other."""
    shown = re.findall(r"^#([a-z_]+ = .*)$", SAMPLE.read_text(), re.MULTILINE)
    assert sorted(line.split(" = ")[0] for line in shown) == sorted(KEYS)
    path = tmp_path / "shown.toml"
    path.write_text("\n".join(shown))
    assert Config.load(None, path) == Config()


def test_the_controllers_sample_shows_every_key_with_its_default(tmp_path):
    shown = re.findall(r"^#([a-z_]+ = .*)$", CONTROLLERS.read_text(), re.MULTILINE)
    keys = [f.name for f in fields(ControllerConfig) if f.name not in ("etc", "var")]
    assert [line.split(" = ")[0] for line in shown] == keys
    home = tmp_path / "etc" / "controller"
    home.mkdir(parents=True)
    (home / "controller.toml").write_text("\n".join(shown))
    bare = ControllerConfig(etc=home, var=tmp_path / "var" / "controller")
    assert ControllerConfig.load(tmp_path) == bare


@pytest.mark.parametrize(
    "text", ["http_port = 65536", "strict_signatures = 1", "nonsense = 1", 'log_level = "loud"']
)
def test_what_the_controller_does_not_understand_is_named(tmp_path, text):
    file = tmp_path / "etc" / "controller" / "controller.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        ControllerConfig.load(tmp_path)
    assert str(file) in refused.value.cause and text.split(" = ")[0] in refused.value.cause
    assert refused.value.remedy


def test_a_rule_may_have_limits_of_its_own(tmp_path):
    text = """brake_share = 10
brakes = {"/backup/mail/" = {floor = 5000}, "0123abcd" = {window_s = 0, share = 50.5}}
"""
    written(tmp_path, text)
    config = Config.load(tmp_path)
    assert config.limits("r", "/backup") == Limits(1000, 10.0, 3600.0)
    assert config.limits("r", "/backup/mail") == Limits(5000, 10.0, 3600.0)
    assert config.limits("0123abcd", "/backup/mail") == Limits(5000, 50.5, 0.0)


@pytest.mark.parametrize(
    ("value", "cause", "remedy"),
    [
        ("7", "brakes is 7", "a table"),
        ('{"/b" = 7}', "brakes./b is 7", "a table"),
        ('{"/b" = {flor = 7}}', "brakes./b: unknown key 'flor'", "'floor'"),
        ('{"/b" = {share = 101}}', "brakes./b.share is 101", "from 0.0 to 100.0"),
        ('{"/b" = {floor = "x"}}', "brakes./b.floor is 'x'", "whole number"),
    ],
)
def test_what_is_wrong_with_the_limits_of_a_rule_is_named(tmp_path, value, cause, remedy):
    written(tmp_path, f"brakes = {value}\n")
    with pytest.raises(UsageError) as caught:
        Config.load(tmp_path)
    assert cause in caught.value.cause and remedy in caught.value.remedy
