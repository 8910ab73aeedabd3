"""Files that anybody may have edited, read as far as they can be understood."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

AnyModel = TypeVar("AnyModel", bound=BaseModel)


def understood(model: type[AnyModel], content: dict[str, Any], name: str) -> tuple[AnyModel, list[str]]:
    """The part of a JSON object that is of the model's types, with a sentence for each value that is not.

    Args:
        model: Has a default for every field; a null stands for it.
        content: The object.
        name: The file's, for the sentences.
    """
    rest = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
    rest = {key: value for key, value in rest.items() if value is not None}
    try:
        return model.model_validate(rest), []
    except ValidationError as error:
        wrong = error.errors(include_url=False)
    notes: dict[str, str] = {}
    for each in wrong:
        place, *inner = map(str, each["loc"])
        entries = rest.get(place)
        # Of a mapping one entry is lost; what is left of a list would be another list.
        if inner and isinstance(entries, dict):
            entries.pop(inner[0], None)
            place = f"{place}.{inner[0]}"
        else:
            rest.pop(place, None)
        notes.setdefault(place, f"{name}: {place} is left out: {each['msg']}, not {each['input']!r:.60}.")
    return model.model_validate(rest), list(notes.values())
