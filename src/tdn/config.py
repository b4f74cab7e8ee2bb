"""Typed configuration: unknown keys and wrong types are refused with the nearest valid name."""

from __future__ import annotations

import difflib
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Tag, ValidationError

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
    key = ".".join(_without_tags(config, location))
    if problem["type"] != "extra_forbidden":
        return f"{key}: {problem['msg']} (got {problem['input']!r})"
    valid = _field_names(config, location[:-1])
    close = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"valid keys: {', '.join(sorted(valid))}"
    return f"{key}: unknown key; {hint}"


def _member(annotation: Any, tag: str) -> type[BaseModel] | None:
    """The configuration that `tag` chooses in a union of tagged ones, None if `annotation` is no such union."""
    for choice in get_args(annotation):
        if any(isinstance(note, Tag) and note.tag == tag for note in getattr(choice, "__metadata__", ())):
            return get_args(choice)[0]
    return None


def _without_tags(config: type[BaseModel], location: list[str]) -> list[str]:
    """`location` as a user writes it: pydantic puts the tag of a chosen configuration between the keys."""
    if len(location) > 1 and location[0] in config.model_fields:
        chosen = _member(config.model_fields[location[0]].annotation, location[1])
        if chosen is not None:
            return [location[0], *location[2:]]
    return location


def _field_names(config: type[BaseModel], path: list[str]) -> list[str]:
    """Valid keys at `path`, following nested configurations as far as they go."""
    if path and path[0] in config.model_fields:
        annotation = config.model_fields[path[0]].annotation
        chosen = _member(annotation, path[1]) if len(path) > 1 else None
        if chosen is not None:
            return _field_names(chosen, path[2:])
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return _field_names(annotation, path[1:])
    return list(config.model_fields)
