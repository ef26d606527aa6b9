"""Settings: precedence, bounds, errors that say what to do, and secrets that are never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast_server.settings import (
    RULES,
    Settings,
    SettingsError,
    check_serving,
    describe,
    read,
    redacted,
    strangers,
    variable_of,
)


def test_everything_works_when_nothing_is_given() -> None:
    settings = read({})
    assert settings.port == 7400
    assert settings.worker_count >= 1
    assert settings.kill_file == settings.state_dir / "KILL"
    assert settings.state_dir.is_absolute()
    assert {row.origin for row in describe(settings)} == {"default"}


def test_a_flag_wins_over_the_environment_and_that_over_the_default() -> None:
    settings = read({"HOLDFAST_PORT": "7500", "HOLDFAST_WORKERS": "3"}, {"port": 7600})
    assert (settings.port, settings.workers) == (7600, 3)
    origins = {row.name: row.origin for row in describe(settings)}
    assert (origins["port"], origins["workers"], origins["host"]) == (
        "flag",
        "environment",
        "default",
    )


def test_an_empty_variable_and_an_absent_flag_count_as_not_given() -> None:
    assert read({"HOLDFAST_PORT": ""}, {"workers": None}) == read({})


def test_the_state_directory_moves_the_kill_file_along() -> None:
    settings = read({"HOLDFAST_STATE_DIR": "/var/lib/holdfast"})
    assert settings.kill_file == Path("/var/lib/holdfast/KILL")
    moved = read({"HOLDFAST_STATE_DIR": "/a", "HOLDFAST_KILL_FILE": "/b/off"})
    assert moved.kill_file == Path("/b/off")
    assert read({"XDG_STATE_HOME": "/x"}).state_dir == Path("/x/holdfast")


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("HOLDFAST_PORT", "65536", "0 to 65535"),
        ("HOLDFAST_PORT", "7400.5", "0 to 65535"),
        ("HOLDFAST_PARTITIONS", "0", "1 to 4096"),
        ("HOLDFAST_TRACE_SAMPLE_RATIO", "nan", "0 to 1"),
        ("HOLDFAST_TRACE_SAMPLE_RATIO", "1.1", "0 to 1"),
        ("HOLDFAST_DEVELOPMENT", "maybe", "true or false"),
        ("HOLDFAST_LOG_FORMAT", "xml", "json, text"),
        ("HOLDFAST_JWT_ALGORITHMS", "RS256,none", "RS256"),
        ("HOLDFAST_REDIS_URL", "http://localhost", "redis://"),
        ("HOLDFAST_ENV", "staging", "production, test"),
    ],
)
def test_a_value_out_of_bounds_names_the_variable_the_value_and_what_is_allowed(
    variable: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read({variable: value})
    text = str(caught.value)
    assert variable in text
    assert repr(value) in text
    assert allowed in text


def test_a_path_need_not_be_text_and_everything_else_must() -> None:
    odd = os.fsdecode(b"/var/\xff")
    assert read({"HOLDFAST_STATE_DIR": odd}).state_dir == Path(odd)
    with pytest.raises(SettingsError, match="HOLDFAST_HOST is '\\\\udcff'; allowed is an address"):
        read({"HOLDFAST_HOST": os.fsdecode(b"\xff")})


def test_a_value_that_is_too_long_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        read({"HOLDFAST_HOST": "h" * 5_000})
    assert len(str(caught.value)) < 100


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(SettingsError, match="colour"):
        read({}, {"colour": "red"})


@pytest.mark.parametrize("text", ["1", "true", "ON", "please", "please stop everything"])
def test_any_word_turns_the_kill_switch_on(text: str) -> None:
    assert read({"HOLDFAST_KILL": text}).kill


@pytest.mark.parametrize("text", ["0", "false", "No", "off"])
def test_only_the_words_for_no_leave_it_off(text: str) -> None:
    assert not read({"HOLDFAST_KILL": text}).kill


SECRET_URLS = [
    "redis://user:hunter2@host:6379/0",
    "rediss://:hunter2@host",
    "postgresql://user:p@hunter2@host/db",
    "postgresql://host/db?user=me&password=hunter2",
    "postgresql://user:hun/ter?2#@host/db?sslpassword=hunter2",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_no_secret_is_ever_printed(url: str) -> None:
    name = "redis_url" if url.startswith("redis") else "postgres_url"
    settings = read({variable_of(name): url})
    shown = f"{describe(settings)} {settings!r} {settings} {redacted(url)}"
    assert "hunter2" not in shown
    assert "ter?2" not in shown
    with pytest.raises(SettingsError) as caught:
        read({variable_of(name): url.replace("redis", "http").replace("postgresql", "http")})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["redis//:hunter2@host", "hunter2@host:6379", "user:hunter2@host", "redis:://:h\nhunter2@x"],
)
def test_no_secret_of_a_text_that_is_no_url_is_printed(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read({"HOLDFAST_REDIS_URL": text})
    assert "hunter2" not in str(caught.value)
    assert "allowed is a URL that begins with redis://" in str(caught.value)


def test_every_setting_says_what_it_means_and_what_is_allowed() -> None:
    for row in describe(read({})):
        assert row.meaning.endswith("."), row.name
        assert row.allowed, row.name
        assert row.variable.startswith("HOLDFAST_"), row.name
    assert len(RULES) == len(describe(read({})))


def test_every_default_is_within_its_own_bounds() -> None:
    for row in describe(Settings()):
        if row.default:
            RULES[row.name].parse(row.default)


def test_variables_that_are_no_settings_are_named_with_what_may_be_meant() -> None:
    ours = {variable_of(name) for name in RULES} | {"HOLDFAST_TOKEN", "HOLDFAST_TLS_CA", "PATH"}
    assert strangers(dict.fromkeys(ours, "1")) == []
    assert strangers({"HOLDFAST_WORKER": "3", "HOLDFAST_QQ": ""}) == [
        "HOLDFAST_QQ is no setting",
        "HOLDFAST_WORKER is no setting; HOLDFAST_WORKERS is one",
    ]


def test_settings_that_belong_together_are_checked_together() -> None:
    with pytest.raises(SettingsError, match="HOLDFAST_TLS_KEY"):
        read({"HOLDFAST_TLS_CERTIFICATE": "/c.pem"})
    with pytest.raises(SettingsError, match="HOLDFAST_JWT_ISSUER"):
        read({"HOLDFAST_JWT_ISSUER": "https://issuer"})
    with pytest.raises(SettingsError, match="HOLDFAST_OUTBOX_ENTRIES_SOFT"):
        read({"HOLDFAST_OUTBOX_ENTRIES_HARD": "2000"})


def test_plaintext_and_development_stay_on_this_machine() -> None:
    tokens = {"HOLDFAST_TOKENS_FILE": "/tokens"}
    check_serving(read({"HOLDFAST_DEVELOPMENT": "1", "HOLDFAST_HOST": "::1"}))
    for refused in (
        {"HOLDFAST_DEVELOPMENT": "1", "HOLDFAST_HOST": "0.0.0.0"},
        {**tokens, "HOLDFAST_HOST": "localhost"},
        {**tokens, "HOLDFAST_HOST": "0.0.0.0"},
        {**tokens, "HOLDFAST_HOST": "holdfast.example"},
        {},
    ):
        with pytest.raises(SettingsError):
            check_serving(read(refused))
    tls = {"HOLDFAST_TLS_CERTIFICATE": "/c.pem", "HOLDFAST_TLS_KEY": "/k.pem"}
    check_serving(read({**tokens, **tls, "HOLDFAST_HOST": "0.0.0.0"}))


def test_reflection_follows_development_unless_it_is_set() -> None:
    assert read({"HOLDFAST_DEVELOPMENT": "1"}).reflection_enabled
    assert not read({}).reflection_enabled
    assert read({"HOLDFAST_REFLECTION": "1"}).reflection_enabled
