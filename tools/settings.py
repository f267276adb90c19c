"""What every section of settings is made of: a frozen pydantic class in which unknown keys are errors."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

OPERATIONAL: dict[str, Any] = {"operational": True}


class Section(BaseModel):
    """Base of the sections: immutable, unknown keys are errors, no NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True, protected_namespaces=()
    )


Rate = Annotated[float, Field(ge=0.0, le=1.0)]
