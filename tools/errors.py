"""The error hierarchy of Retort.

A leaf that every package may import. Errors are raised where a thing goes wrong and classified at one boundary: the
CLI turns a `RetortError` into one line and exit code 2; the graphs turn a `RolloutError` into data (`ErrorInfo`).
"""


class RetortError(Exception):
    """Base class: the message is one line that says what went wrong, where, and what to do."""


class ConfigError(RetortError, ValueError):
    """A setting that the user gave is wrong."""


class DataError(RetortError, ValueError):
    """A file or a record that the user gave is wrong."""


class NothingAcceptedError(RetortError):
    """The rejection filter kept nothing, so that there is nothing to train on (exit code 3)."""


class RolloutError(RetortError):
    """Something failed inside a rollout; it becomes a typed record, never a reward and never a verdict."""


class ModelError(RolloutError):
    """A chat model could not be reached or answered with an error."""


class ContextLengthError(ModelError):
    """A conversation does not fit the model's context: a limit, which graphs turn into `MAX_TOKENS`, not an outage."""


class UnsupportedError(ModelError):
    """A chat model's server does not take a field that the request cannot do without; nothing is out of order."""


class SandboxError(RolloutError):
    """The sandbox itself failed (not the code that ran in it)."""


class ToolError(RolloutError):
    """A tool failed for a reason that is not the model's doing."""


class ParseError(RolloutError):
    """A model's text does not follow the wire format."""
