"""What every section of settings is made of: a frozen pydantic class in which unknown keys are errors."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Named = TypeVar("Named", bound=str)
OPERATIONAL: dict[str, Any] = {"operational": True}


class Section(BaseModel):
    """Base of the sections: immutable, unknown keys are errors, no NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True, protected_namespaces=()
    )


Rate = Annotated[float, Field(ge=0.0, le=1.0)]


def shares(value: dict[Named, float]) -> dict[Named, float]:
    """Return weights of named things as they are.

    Raises:
        ValueError: one is below 0, or none is above.
    """
    if not value or min(value.values()) < 0 or sum(value.values()) <= 0:
        raise ValueError("should give at least one a weight above 0, and none below")
    return value
