"""Chat models by name: the offline programs, and whatever an OpenAI-compatible endpoint serves."""

import functools
import os

from langchain_core.language_models import BaseChatModel

from agents.chat import EndpointChat
from agents.endpoints import parse_urls
from agents.scripted_agent import ScriptedAgent
from agents.scripted_judge import ScriptedJudge
from agents.scripted_refiner import ScriptedRefiner
from agents.scripted_solver import ScriptedSolver
from agents.scripted_teacher import ScriptedTeacher
from tools.errors import ConfigError

Scripted = ScriptedTeacher | ScriptedSolver | ScriptedRefiner | ScriptedJudge | ScriptedAgent
SCRIPTED: dict[str, type[Scripted]] = {
    "scripted-teacher": ScriptedTeacher,
    "scripted-solver": ScriptedSolver,
    "scripted-refiner": ScriptedRefiner,
    "scripted-judge": ScriptedJudge,
    "scripted-agent": ScriptedAgent,
}


@functools.cache
def open_chat(
    model: str, base_url: str | None = None, *, error_rate: float | None = None, seed: int = 0
) -> BaseChatModel:
    """Return the chat model of that name, one for all callers with the same arguments.

    Args:
        model: one of `SCRIPTED` (offline, no URL), else the name that the endpoint serves.
        base_url: one or several comma-separated base URLs; the key comes from `OPENAI_API_KEY` (default "EMPTY").
        error_rate: share of wrong answers of a scripted model in [0, 1]; None means its default. Endpoints ignore it.
        seed: seed of a scripted model.

    Raises:
        ConfigError: the URL is missing or malformed, or a scripted model is asked for at a URL.
    """
    if model in SCRIPTED:
        if base_url:
            raise ConfigError(
                f"model {model!r} is offline and takes no base_url; name the model that {base_url} serves"
            )
        return _open_scripted(model, error_rate, seed)
    if not base_url:
        raise ConfigError(
            f"model {model!r} needs a base_url such as http://localhost:8000/v1; offline ones: {', '.join(SCRIPTED)}"
        )
    return EndpointChat(
        model_id=model, base_urls=parse_urls(base_url), api_key=os.environ.get("OPENAI_API_KEY") or "EMPTY"
    )


def _open_scripted(model: str, error_rate: float | None, seed: int) -> BaseChatModel:
    kind = SCRIPTED[model]
    return kind(seed=seed) if error_rate is None else kind(error_rate=error_rate, seed=seed)
