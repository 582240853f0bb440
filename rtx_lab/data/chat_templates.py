"""Chat templates: the Jinja text beside a tokenizer that says how a conversation is written for its model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rtx_lab.core.errors import RunError, UsageError

CONFIG_FILE, FILE = "tokenizer_config.json", "chat_template.jinja"
TODAY = "26 Jul 2024"
"""The day that templates are told which write the date into their prompt: a prompt must not change overnight."""
PINNED_DATE = "{%- macro strftime_now(format) %}" + TODAY + "{%- endmacro %}\n"


def read_chat_template(config: Path | None, file: Path | None) -> str | None:
    """Return the template of a `chat_template.jinja` or, where there is none, of a `tokenizer_config.json`.

    Of several named templates `default` is taken; None where there is none. Raises RunError for a broken file.
    """
    try:
        if file is not None and file.is_file():
            return file.read_text(encoding="utf-8")
        found = json.loads(config.read_text(encoding="utf-8")) if config is not None and config.is_file() else {}
    except (OSError, ValueError) as error:
        raise RunError(f"The chat template beside {file or config} cannot be read ({error}).") from None
    template = found.get("chat_template") if isinstance(found, dict) else None
    if isinstance(template, list):  # as older configurations list them
        template = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) and template else None


def render_chat(
    template: str, messages: Sequence[tuple[str, str]], specials: Mapping[str, str], *, answer_next: bool
) -> str:
    """Write a conversation of (role, text) as a model reads it; with `answer_next` up to where its answer begins.

    `specials` are the texts of special tokens by their names in templates (`bos_token`). Models that can think aloud
    are asked not to, and templates that write today's date are told a fixed one. Templates run in the sandbox of
    transformers. Raises UsageError, with the template's own words, for one that fails.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    chat = [{"role": role, "content": text} for role, text in messages]
    seen: dict[str, Any] = {**specials, "enable_thinking": False, "add_generation_prompt": answer_next}
    try:
        rendered, _ = render_jinja_template(conversations=[chat], chat_template=PINNED_DATE + template, **seen)
    except Exception as error:  # a template is code of others: whatever it raises means that it cannot be used
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"The tokenizer's chat template fails ({reason}): set task.template=plain.") from None
    return rendered[0]
