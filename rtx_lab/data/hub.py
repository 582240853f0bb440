"""Files of the Hugging Face hub, with every failure as one sentence."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

from rtx_lab.core.errors import RunError


def fetch(repo: str, file: str, *, kind: Literal["dataset", "model"], revision: str, advice: str) -> Path:
    """The local copy of a hub file, downloaded when it is not in the hub's cache (HF_HUB_OFFLINE is respected).

    Raises RunError with both ways out: `advice` (how to use local files) or the network; a refusal names HF_TOKEN.
    """
    from huggingface_hub import errors, hf_hub_download

    what = f"{file} of {repo}"
    try:
        return Path(hf_hub_download(repo, file, repo_type=kind, revision=revision, local_files_only=_cut_off()))
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise RunError(f"The hub refuses {what} ({_status(error)}): set HF_TOKEN, or set {advice}.") from None
    except errors.HfHubHTTPError as error:
        if _status(error) in ("401", "403"):
            raise RunError(f"The hub refuses {what} ({_status(error)}): set HF_TOKEN, or set {advice}.") from None
        raise RunError(f"The hub has no {what} at revision {revision} ({_status(error)}): set {advice}.") from None
    except Exception as error:  # whatever the HTTP stack raises means: not here and not to be had
        raise RunError(
            f"The file {what} is neither in the local cache nor to be had from the hub "
            f"({type(error).__name__}): set {advice}, or allow the network (and unset HF_HUB_OFFLINE)."
        ) from None


def _cut_off() -> bool:
    """Whether the hub's name cannot even be looked up: the hub client would retry that for 23 seconds, aloud."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    if getproxies():
        return False
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return True
    return False


def _status(error: Exception) -> str:
    return str(getattr(getattr(error, "response", None), "status_code", type(error).__name__))
