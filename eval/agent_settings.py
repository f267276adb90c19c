"""Who is evaluated by `eval.agent`: the agent's settings and tools, from the words of a command line.

Input: the parsed options. Output: an `Agent`, what its trajectories depend on, and its chat model.
"""

import argparse
import difflib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from langchain_core.language_models import BaseChatModel
from pydantic import BaseModel, ValidationError

from agents.plain_roles import agent_version
from eval.benchmarks import Chosen
from eval.verifier import opened_chat, weights_of
from graphs.react_state import ReactContext
from tools.errors import ConfigError
from tools.registry import ToolsConfig
from tools.settings import OPERATIONAL

SCRIPTED = "scripted-agent"
OWN = ("model", "base_url", "temperature", "max_turns", "style", "enabled", "corpus")  # have options of their own
OF_ROUNDS = ("judge_style", "judge_temperature", "judge_max_tokens", "max_transcript", "max_critique")
WITH_FOLDER = ("files", "vision", "audio")


class Agent(NamedTuple):
    """Who answers, and how: settings, tools, the scripted agent's skill, how many at once, failures in a row."""

    context: ReactContext
    tools: ToolsConfig
    skill: float = 0.7
    width: int = 16
    max_outages: int = 16
    seed: int = 0


def agent_of(args: argparse.Namespace) -> Agent:
    """Return who is evaluated.

    Raises:
        ConfigError: an unknown setting, or a value of another kind.
    """
    plain: dict[str, Any] = {
        "model": args.model,
        "base_url": args.base_url,
        "temperature": args.temperature,
        "max_turns": args.max_turns,
        "style": args.style,
    }
    tools: dict[str, Any] = {"enabled": args.tools, "folder": str(args.folder) if args.folder else None}
    if args.corpus:
        tools["search"] = {"corpus": str(args.corpus)}
    names = [name for name, field in ReactContext.model_fields.items() if not field.exclude and name not in OWN]
    for text in args.set:
        key, value = _setting(text)
        first = key.split(".")[0]
        if first in names and "." not in key:
            plain[key] = value
        elif first in ToolsConfig.model_fields and first not in ("enabled", "folder"):
            _put(tools, key, value)
        elif key in OF_ROUNDS:
            if not args.rounds:
                raise ConfigError(f"--set {text}: it needs --rounds")
        else:
            sections = (f"{n}.…" for n in ToolsConfig.model_fields if n not in ("enabled", "folder"))
            known = [*names, *OF_ROUNDS, *sections]
            near = difflib.get_close_matches(key, known, 1, 0.0)[0]
            raise ConfigError(
                f"--set {text}: unknown setting {key!r}; did you mean {near}? There are {', '.join(known)}"
            )
    return Agent(
        context=_validated(ReactContext, plain),
        tools=_validated(ToolsConfig, tools),
        skill=args.skill,
        width=args.concurrency,
        max_outages=args.max_outages,
        seed=args.seed,
    )


def _setting(text: str) -> tuple[str, Any]:
    key, equals, raw = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: expected KEY=VALUE, such as max_tokens=1024 or search.provider=serper")
    try:
        return key, yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not YAML; quote it") from error


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
    values[last] = value


def _validated(kind: Any, values: dict[str, Any]) -> Any:
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"agent setting {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def identity(agent: Agent, chosen: Chosen) -> dict[str, Any]:
    """Return what trajectories depend on. How many there are, and where things are found, may change."""
    settings = agent.context.model_dump(mode="json", exclude={"base_url", "enabled", "corpus"})
    corpus = agent.tools.search.corpus if "search" in agent.tools.enabled else None
    found = settings | {
        "benchmark": chosen.name,
        "weights": weights_of(agent.context.model, agent.context.base_url),
        "prompt": agent_version(agent.context.style),
        "tools": {name: _fixed(getattr(agent.tools, name, None)) for name in agent.tools.enabled},
        "corpus": _stamp(Path(corpus)) if corpus else "",
        **({"skill": agent.skill, "seed": agent.seed} if agent.context.model == SCRIPTED else {}),
    }
    return json.loads(json.dumps(found))  # as it is read back


def _fixed(section: Any) -> Any:
    """Return the settings of a tool without those that may change between a run and its resumption."""
    if not isinstance(section, BaseModel):
        return [_fixed(part) for part in section] if isinstance(section, Sequence) else None
    return {
        name: _fixed(value) if isinstance(value := getattr(section, name), BaseModel) else value
        for name, field in type(section).model_fields.items()
        if field.json_schema_extra != OPERATIONAL
    }


def _stamp(path: Path) -> str:
    """Return what names a corpus wherever it lies: its name, and a file's size."""
    return f"{path.name} {path.stat().st_size}" if path.is_file() else path.name


@contextmanager
def opened_agent(agent: Agent, resumed: int) -> Iterator[BaseChatModel]:
    """Open the agent's chat model, and close what runs in this process.

    Args:
        agent: Whose.
        resumed: How many trajectories there are already: a model in this process is given another seed for the others,
            or the samples that are there would come again.

    Raises:
        ConfigError: there is no such model, or it cannot be loaded.
    """
    context = agent.context
    if context.model == SCRIPTED and not context.base_url:
        from agents.models import open_chat

        yield open_chat(SCRIPTED, error_rate=1.0 - agent.skill, seed=agent.seed)
        return
    seed = hash((agent.seed, resumed)) if resumed else agent.seed
    room = context.max_trajectory_tokens
    with opened_chat(context.model, context.base_url, agent.width, room, seed=seed) as chat:
        yield chat
