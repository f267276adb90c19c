"""What a tool is: a name, a JSON schema, and an async call that never raises into a graph."""

from abc import ABC, abstractmethod
from typing import Any

from pydantic import BaseModel, ConfigDict


class ToolCall(BaseModel):
    """A call as the model wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    arguments: dict[str, Any]


class ToolResult(BaseModel):
    """What a tool gave back: `content` is what the model sees, `ok` is False when it refused or its code raised."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    content: str
    ok: bool = True
    seconds: float = 0.0


class Tool(ABC):
    """One tool. `parameters` is a JSON schema of the arguments (OpenAI function form)."""

    name: str
    description: str
    parameters: dict[str, Any]

    @property
    def schema(self) -> dict[str, Any]:
        """The OpenAI `tools` entry."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": self.parameters},
        }

    @abstractmethod
    async def call(self, arguments: dict[str, Any], key: str) -> ToolResult:
        """Run the tool for the trajectory `key`.

        Wrong arguments give a short observation that says how to call it right, with `ok=False`.

        Raises:
            SandboxError: the backend is out of order (an outage, not the model's doing).
            ToolError: likewise for other backends.
        """

    async def release(self, key: str) -> None:  # noqa: B027 - most tools hold nothing
        """Free what the trajectory `key` holds (a session, say). Safe to call twice; nothing to free by default."""
