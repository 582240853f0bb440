"""Keys of outside services: read from `.env`, and named when a service refuses."""

import logging
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

VARIABLES = {"huggingface_hub": "HF_TOKEN", "wandb": "WANDB_API_KEY"}
_REFUSED = (401, 403)
_REFUSALS = frozenset({"GatedRepoError", "LocalTokenNotFoundError", "AuthenticationError", "CommError", "UsageError"})


def read_env_file(path: Path = Path(".env")) -> None:
    """Set the variables of a `.env` file that are not set yet; a missing or unreadable file changes nothing."""
    if not path.is_file():
        return
    from dotenv import load_dotenv

    try:
        load_dotenv(path, override=False)
    except (OSError, ValueError) as error:
        log.warning("%s was not read: %s", path, error)


def credential_advice(error: BaseException) -> str | None:
    """Return which variable to set when the Hugging Face hub or wandb refused access (401, 403, no key), else None."""
    for cause in _chain(error):
        service = _service(cause)
        if service and (_status(cause) in _REFUSED or type(cause).__name__ in _REFUSALS or "API key" in str(cause)):
            variable = VARIABLES[service]
            return f"set {variable} in the environment or in .env (see .env.example)"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _service(error: BaseException) -> str | None:
    """The service by the module that raised; a bare HTTP error by the host in its message."""
    package = type(error).__module__.partition(".")[0]
    if package in VARIABLES:
        return package
    text = str(error)
    if "huggingface.co" in text or "hf.co" in text:
        return "huggingface_hub"
    return "wandb" if "wandb.ai" in text else None
