"""Prompts as text files: read once, when this module is imported (a graph's nodes do no file I/O), and filled.

Placeholders are replaced in one pass: braces, LaTeX and "{solution}" inside a problem stay as they are.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools.base import Tool
from tools.errors import ConfigError

PROMPTS = Path(__file__).parent / "prompts"
_TEMPLATES = {p.relative_to(PROMPTS).as_posix(): p.read_text("utf-8").rstrip("\n") for p in PROMPTS.rglob("*.txt")}
_PLACEHOLDER = re.compile(r"\{(problem|solution|tools|review|trajectory|fault|reference|given)\}")


def is_template(path: str) -> bool:
    """Return whether there is a prompt of this path, below `agents/prompts`."""
    return path in _TEMPLATES


def template(path: str) -> str:
    """Return a prompt.

    Raises:
        ConfigError: there is none of this path.
    """
    if path not in _TEMPLATES:
        raise ConfigError(f"there is no prompt {path!r} in {PROMPTS}; the prompts are {', '.join(sorted(_TEMPLATES))}")
    return _TEMPLATES[path]


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put values in the places of a prompt.

    Raises:
        ConfigError: a place has no value.
    """

    def value_of(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ConfigError(f"the prompt needs a value for {match[0]}")
        return values[match[1]]

    return _PLACEHOLDER.sub(value_of, text)


def tool_schemas(tools: Iterable[Tool]) -> str:
    """Write the tools' schemas as Qwen3's chat template does, one JSON object a line."""
    return "\n".join(json.dumps(tool.schema, ensure_ascii=False) for tool in tools)
