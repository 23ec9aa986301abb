from __future__ import annotations

import pytest

from perdure.base.errors import ModelError, UsageError
from perdure.llm.providers import PROVIDERS, find_api_key, find_base_url, find_model, find_provider, without_user

OPENAI, OLLAMA, COMPATIBLE = PROVIDERS["openai"], PROVIDERS["ollama"], PROVIDERS["openai-compatible"]


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_MODEL", "from-env")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://env/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "env-key")

    assert find_model(OPENAI, "mine") == "mine"
    assert find_base_url(OPENAI, "http://mine/v1") == "http://mine/v1"
    assert find_api_key(OPENAI, "my-key").value == "my-key"
    assert find_model(OPENAI, None) == "from-env"
    assert find_base_url(OPENAI, None) == "http://env/v1"
    assert find_api_key(OPENAI, None).value == "env-key"


def test_openai_has_a_default_address_and_model_but_no_default_key() -> None:
    assert find_base_url(OPENAI, None) == "https://api.openai.com/v1"
    assert find_model(OPENAI, None) == "gpt-4o"
    with pytest.raises(ModelError, match="OPENAI_API_KEY"):
        find_api_key(OPENAI, None)


def test_an_empty_key_argument_does_not_fall_back_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "env-key")

    with pytest.raises(ModelError, match="no API key"):
        find_api_key(OPENAI, "")


def test_a_key_is_stripped_and_refused_without_being_shown_when_it_cannot_be_one() -> None:
    assert find_api_key(OPENAI, "sk-abc\n").value == "sk-abc"
    for broken in ("sk-abc\ndef", "sk abc", "sk-äbc"):
        with pytest.raises(ModelError, match="no API key has") as caught:
            find_api_key(OPENAI, broken)
        assert broken not in str(caught.value)


def test_a_key_does_not_show_in_its_repr_and_is_scrubbed_from_texts() -> None:
    key = find_api_key(OPENAI, "sk-secret")

    assert "sk-secret" not in repr(key)
    assert key.scrub("wrong key sk-secret!") == "wrong key ***!"
    assert find_api_key(OLLAMA, None).scrub("run ollama pull") == "run ollama pull"


def test_ollama_needs_no_key_and_names_the_variable_of_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_api_key(OLLAMA, None).value == "ollama"
    with pytest.raises(UsageError, match="OLLAMA_MODEL"):
        find_model(OLLAMA, None)

    monkeypatch.setenv("OLLAMA_MODEL", "qwen3:0.6b")
    assert find_model(OLLAMA, None) == "qwen3:0.6b"


def test_ollama_is_found_at_its_endpoint_then_at_its_host_then_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_base_url(OLLAMA, None) == "http://localhost:11434/v1"
    monkeypatch.setenv("OLLAMA_HOST", "gpu:9999")
    assert find_base_url(OLLAMA, None) == "http://gpu:9999/v1"
    monkeypatch.setenv("OLLAMA_ENDPOINT", "http://other:1/v1")
    assert find_base_url(OLLAMA, None) == "http://other:1/v1"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("gpu", "http://gpu:11434/v1"),
        (":8080", "http://127.0.0.1:8080/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("[::1]:8080", "http://[::1]:8080/v1"),
        ("https://ollama.example.com", "https://ollama.example.com/v1"),
        ("http://gpu:11434/", "http://gpu:11434/v1"),
        ("http://gpu:11434/v1/", "http://gpu:11434/v1"),
        ("https://proxy/team/v1", "https://proxy/team/v1"),
    ],
)
def test_every_form_of_ollama_host_becomes_a_whole_address(host: str, url: str) -> None:
    assert find_base_url(OLLAMA, host) == url


def test_a_compatible_provider_must_be_told_where_it_is() -> None:
    with pytest.raises(UsageError, match="base_url"):
        find_base_url(COMPATIBLE, None)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://"])
def test_an_address_that_is_none_is_refused_with_its_shape(url: str) -> None:
    with pytest.raises(UsageError, match="http://host:port/v1"):
        find_base_url(OPENAI, url)


def test_user_and_password_of_an_address_do_not_show() -> None:
    assert without_user("https://me:secret@host/v1") == "https://host/v1"


def test_an_unknown_provider_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(UsageError, match=r"unknown model provider 'olama'.*did you mean 'ollama'"):
        find_provider("olama")
