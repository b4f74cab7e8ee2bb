"""Typed configuration: unknown keys and wrong types are refused with the nearest valid name."""

from __future__ import annotations

import difflib
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tdn.errors import ConfigError


class StrictConfig(BaseModel):
    """Base of every configuration: immutable, every key known, every value of its type."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def parse(cls, content: dict[str, Any], where: str = "configuration") -> Self:
        """Validate `content`.

        Args:
            content: Nested plain values, as read from YAML or JSON.
            where: What to call the source in messages, such as a file name.

        Raises:
            ConfigError: Naming every wrong key or value, and for unknown keys the nearest valid name.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            lines = [_explain(cls, dict(problem)) for problem in error.errors()]
            raise ConfigError(f"{where} is not valid:\n" + "\n".join(f"  - {line}" for line in lines)) from None


def _explain(config: type[BaseModel], problem: dict[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg']} (got {problem['input']!r})"
    valid = _field_names(config, location[:-1])
    close = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"valid keys: {', '.join(sorted(valid))}"
    return f"{key}: unknown key; {hint}"


def _field_names(config: type[BaseModel], path: list[str]) -> list[str]:
    """Valid keys at `path`, following nested configurations as far as they go."""
    for part in path:
        field = config.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        config = field.annotation
    return list(config.model_fields)
