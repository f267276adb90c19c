"""Who reviews: a model with the settings of the bidirectional verifier, from the words of a command line.

Input: a model's name (scripted, a folder, or what an endpoint serves) and `key=value` settings. Output: a `Verifier`,
what its reviews depend on, and its chat model, opened and closed.
"""

import argparse
import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import yaml
from langchain_core.language_models import BaseChatModel
from pydantic import BaseModel, ValidationError

from agents.types import ROLES
from eval.recorded import identity_of, recorded
from graphs.state import BidirectionalContext
from tools.errors import ConfigError

if TYPE_CHECKING:
    from eval.probes import Probed

Settings = TypeVar("Settings", bound=BaseModel)


class Verifier(NamedTuple):
    """Who reviews: model and settings (`context`), how many candidates at once, how many failures in a row.

    `probed`: what a probe says of the candidates; where it decides, there is no review (see `eval/probes.py`).
    """

    context: BidirectionalContext
    width: int = 32
    max_outages: int = 16
    probed: "Probed | None" = None

    @property
    def model(self) -> str:
        """The model's name in the records: its folder, or the name that the endpoint serves."""
        return self.context.model


def verifier_of(args: argparse.Namespace) -> Verifier:
    """Return the verifier that a command line names (see `eval.command_line.add_review_options`).

    Raises:
        ConfigError: unknown key, or a value of another type.
    """
    return Verifier(context_of(args.model, args.base_url, args.set), args.concurrency, args.max_outages)


def context_of(model: str, base_url: str | None, settings: Sequence[str]) -> BidirectionalContext:
    """Return the settings of a verifier.

    Args:
        model: `scripted-teacher`, a folder, or the name that an endpoint serves.
        base_url: of the endpoint, None for the others.
        settings: `key=value` each, of the context's plain fields; values are read as YAML.

    Raises:
        ConfigError: unknown key, or a value of another type.
    """
    return changed(BidirectionalContext(model=model, base_url=base_url), settings)


def changed(context: Settings, settings: Sequence[str], who: str = "verifier") -> Settings:
    """Return the settings of a verifier, or of another (`who`), with some of them changed: `key=value` each.

    Raises:
        ConfigError: unknown key, or a value of another type.
    """
    values, names = context.model_dump(), setting_names(type(context))
    for text in settings:
        key, equals, raw = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r}: expected KEY=VALUE, such as max_tokens=512")
        if key not in names:
            near = difflib.get_close_matches(key, names, 1, 0.0)[0]
            raise ConfigError(f"unknown {who} setting {key!r}; did you mean {near}? There are {', '.join(names)}")
        values[key] = _value(text, raw)
    try:
        return type(context)(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{who} setting {where}: {first['msg']}, got {first['input']!r}") from error


def _value(text: str, raw: str) -> Any:
    try:
        return yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r}: the value is not YAML; quote it") from error


def setting_names(kind: type[BaseModel] = BidirectionalContext) -> list[str]:
    """Return the settings of a verifier (or of another kind) that a user may set."""
    return [name for name, field in kind.model_fields.items() if not field.exclude]


def identity(verifier: Verifier) -> dict[str, Any]:
    """Return what reviews depend on: model (a folder's weights by size and time), settings, prompts."""
    if recorded(verifier.model) is not None:
        return identity_of(verifier.context)
    settings = verifier.context.model_dump(mode="json", exclude={"base_url"})
    return settings | {
        "weights": weights_of(verifier.model, verifier.context.base_url),
        "prompts": [verifier.context.version_of(role) for role in ROLES],
    }


def weights_of(model: str, base_url: str | None) -> list[str]:
    """Return names, sizes and times of a folder's weights; nothing where the model is none."""
    weights = sorted(Path(model).glob("*.safetensors")) if is_local(model, base_url) else []
    return [f"{w.name} {w.stat().st_size} {w.stat().st_mtime_ns}" for w in weights]


def is_local(model: str, base_url: str | None) -> bool:
    """Whether the model is run in this process: the embedded student, or a folder."""
    from train.student import EMBEDDED

    return not base_url and (model == EMBEDDED or (Path(model) / "config.json").is_file())


@contextmanager
def open_model(verifier: Verifier, option: str = "--model") -> Iterator[BaseChatModel]:
    """Open the verifier's chat model, and close what runs in this process; `option` named it, for errors.

    Raises:
        ConfigError: there is no such model, or it cannot be loaded.
    """
    context = verifier.context
    slots = verifier.width * len(ROLES) * context.samples
    with opened_chat(context.model, context.base_url, slots, context.max_trajectory_tokens, option=option) as chat:
        yield chat


@contextmanager
def opened_chat(
    model: str, base_url: str | None, slots: int, max_context: int, *, seed: int = 0, option: str = "--model"
) -> Iterator[BaseChatModel]:
    """Open a chat model by what a command line says, and close what runs in this process.

    Args:
        model: a scripted one, the embedded student, a folder, or the name that an endpoint serves.
        base_url: of the endpoint, None for the others.
        slots: conversations decoded at once in this process.
        max_context: tokens of a conversation in this process; less where the model has less room.
        seed: of sampling in this process.
        option: the one that named the model, for errors.

    Raises:
        ConfigError: there is no such model, or it cannot be loaded.
    """
    from agents.models import SCRIPTED, open_chat

    if not is_local(model, base_url):
        if not base_url and model not in SCRIPTED:
            raise ConfigError(
                f"{option} {model!r}: no folder with a config.json, and no "
                f"{'--base-url' if option == '--model' else f'{option}-url'}; "
                f"name a folder, {' or '.join(SCRIPTED)}, or the endpoint that serves it"
            )
        yield open_chat(model, base_url)
        return
    from agents.local import LocalPolicy
    from train.student import load_student
    from train.trainers import keep_freed_memory

    keep_freed_memory()
    student, tokenizer = load_student(model)
    room = student.config.get_text_config().max_position_embeddings
    with LocalPolicy(
        student, tokenizer, model_id=model, slots=slots, max_context=min(room, max_context), seed=seed
    ) as policy:
        yield policy.chat


async def reach(chat: BaseChatModel) -> None:
    """Make sure that an endpoint answers.

    Raises:
        ConfigError: none of its URLs can be reached, or one refuses the key.
    """
    from agents.chat import EndpointChat

    if isinstance(chat, EndpointChat):
        await chat.check()
