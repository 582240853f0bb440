import os
from types import SimpleNamespace

import pytest

from rtx_lab.core.credentials import credential_advice, read_env_file


def error(name, module, text, status=None):
    made = type(name, (Exception,), {"__module__": module})(text)
    if status is not None:
        made.response = SimpleNamespace(status_code=status)
    return made


@pytest.mark.parametrize(
    ("refusal", "variable"),
    [
        (error("HfHubHTTPError", "huggingface_hub.errors", "401 Client Error", 401), "HF_TOKEN"),
        (error("HfHubHTTPError", "huggingface_hub.errors", "403 Forbidden", 403), "HF_TOKEN"),
        (error("GatedRepoError", "huggingface_hub.errors", "gated"), "HF_TOKEN"),
        (error("HTTPStatusError", "httpx", "401 for url https://huggingface.co/api", 401), "HF_TOKEN"),
        (error("UsageError", "wandb.errors.errors", "No API key configured."), "WANDB_API_KEY"),
        (error("AuthenticationError", "wandb.errors.errors", "failed"), "WANDB_API_KEY"),
        (error("HTTPError", "requests.exceptions", "401 for https://api.wandb.ai/graphql", 401), "WANDB_API_KEY"),
    ],
)
def test_a_refusal_names_the_variable(refusal, variable):
    assert variable in (credential_advice(refusal) or "")


@pytest.mark.parametrize(
    "other",
    [
        error("HfHubHTTPError", "huggingface_hub.errors", "500 Server Error", 500),
        error("HTTPError", "requests.exceptions", "401 for https://example.org", 401),
        ValueError("401"),
        OSError("disk full"),
    ],
)
def test_other_errors_name_nothing(other):
    assert credential_advice(other) is None


def test_the_reason_is_found_below_other_errors():
    outer = OSError("cannot load the model")
    outer.__cause__ = ValueError("while reading")
    outer.__cause__.__context__ = error("GatedRepoError", "huggingface_hub.errors", "gated")
    assert "HF_TOKEN" in (credential_advice(outer) or "")


def test_env_file_sets_what_is_not_set(tmp_path, monkeypatch):
    file = tmp_path / ".env"
    file.write_text("# keys\nexport RTX_TEST_NEW='a b'\nRTX_TEST_OLD=file\n\nRTX_TEST_HASH=x # comment\n")
    monkeypatch.setenv("RTX_TEST_OLD", "shell")
    for name in ("RTX_TEST_NEW", "RTX_TEST_HASH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    read_env_file(file)
    assert os.environ["RTX_TEST_NEW"] == "a b"
    assert os.environ["RTX_TEST_OLD"] == "shell"
    assert os.environ["RTX_TEST_HASH"] == "x"


def test_a_broken_or_missing_env_file_changes_nothing(tmp_path):
    read_env_file(tmp_path / "none")
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00=1")
    read_env_file(tmp_path / ".env")
