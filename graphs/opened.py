"""How a node gets its chat model and its tools: the live ones of its context, else those that the settings name.

Chat models are opened by `agents.models.open_chat`; tools once for each event loop and settings.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from weakref import WeakKeyDictionary

from langchain_core.language_models.chat_models import BaseChatModel

from graphs.state import ModelContext, RunContext, TeacherContext
from tools.base import Tool
from tools.registry import open_with_sandbox
from tools.sandbox.settings import SandboxConfig


def chat_of(context: ModelContext) -> BaseChatModel:
    """Return the chat model of a run: the live one, else the one that the settings name.

    Raises:
        ConfigError: the settings name no model that can be opened.
    """
    return context.chat or open_model(context.model, context.base_url)


def solver_of(context: TeacherContext) -> BaseChatModel:
    """Return the solver's chat model, likewise."""
    return context.solver or open_model(context.solver_model, context.solver_base_url)


def open_model(model: str, base_url: str | None) -> BaseChatModel:
    """Return the chat model of that name.

    Raises:
        ConfigError: there is none that can be opened.
    """
    from agents.models import open_chat  # openai is heavy: only where an endpoint or a scripted model is wanted

    return open_chat(model, base_url)


Opened = tuple[AbstractAsyncContextManager[dict[str, Tool]], dict[str, Tool]]
_held_tools: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Opened]] = WeakKeyDictionary()


async def tools_of(context: RunContext) -> dict[str, Tool]:
    """Return the tools by name: the live ones, else those of the settings, one set for an event loop.

    Raises:
        ConfigError: what a tool needs is not set or not there.
        SandboxError: there is no isolation on this machine.
    """
    if context.tools is not None:
        return context.tools
    held = _held_tools.setdefault(asyncio.get_running_loop(), {})
    settings = context.tool_settings
    key = settings.model_dump_json()
    if key not in held:
        # Nobody closes it by hand: it is an async generator, and an event loop that ends closes its async generators.
        holder = open_with_sandbox(settings, SandboxConfig())
        held[key] = (holder, await holder.__aenter__())
    return held[key][1]
