"""Strict configuration: frozen pydantic models, TOML recipes with one section per stage, `--set a.b=c` overrides."""

from __future__ import annotations

import difflib
import importlib.resources
import itertools
import json
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Union, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from edit_r1.errors import UserError

Table = dict[str, Any]
"""A TOML table: names to values."""

_SHOWN_ERRORS = 3
_DEFAULT_FAMILY = "world"


class Config(BaseModel):
    """Base of every configuration: types are strict (no "3" for 3), unknown keys are errors, values never change.

    TOML integers are accepted for floats, and arrays for tuples.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, validate_default=True)

    operational: ClassVar[frozenset[str]] = frozenset()
    """The fields that say how the work is done and cannot change its result: a run may be resumed with others."""


ModelT = TypeVar("ModelT", bound=BaseModel)


def load_recipe(
    model_cls: type[ModelT], recipe: str | Path, overrides: Sequence[str] = (), section: str | None = None
) -> ModelT:
    """Read a recipe, apply the overrides and validate.

    Args:
        model_cls: what the recipe, or its section, must look like.
        recipe: a preset's name (`smoke`, `default`, `full`, or `family/name` of a packaged recipe), or the path of a
            TOML file (a `Path`, or a string that ends with `.toml`).
        overrides: `key=value` or `table.key=value`, relative to the section; values are written as in TOML, and text
            needs no quotes. Later ones win.
        section: the table of the recipe to read, such as `gcpo`; the whole file by default.

    Raises:
        UserError: a missing or malformed file, an unknown preset, section or key (the message names the nearest one),
            or a value of the wrong type or range (the message names the place).
    """
    name, text = _read_recipe(recipe)
    table = _parse(text, name)
    place = f"recipe {name}"
    if section is not None:
        table = _section(table, section, place)
        place = f"{place} [{section}]"
    overridden: set[tuple[str, ...]] = set()
    for override in overrides:
        keys, value = parse_override(override)
        _assign(table, keys, value, override)
        overridden.add(keys)
    return _validate(model_cls, table, place, overridden)


def dump(config: BaseModel) -> Table:
    """The configuration as plain JSON values; `Model.model_validate_json(json.dumps(dump(config)))` gives it back."""
    return config.model_dump(mode="json")


def presets() -> list[str]:
    """The names of the packaged recipes, such as `world/default`."""
    return sorted(
        f"{family.name}/{file.name.removesuffix('.toml')}"
        for family in _recipes().iterdir()
        if family.is_dir()
        for file in family.iterdir()
        if file.name.endswith(".toml")
    )


def sections(recipe: str | Path) -> tuple[str, ...]:
    """The names of a recipe's tables. Raises what `load_recipe` raises for a file that cannot be read."""
    name, text = _read_recipe(recipe)
    return tuple(key for key, value in _parse(text, name).items() if isinstance(value, dict))


def beside(recipe: str | Path, name: str) -> Path | None:
    """The file `name` in a recipe's folder; `.json` is the one called as the recipe. None where there is none."""
    place = _place(recipe)[1]
    path = place.with_suffix(name) if name.startswith(".") else place.with_name(name)
    return path if path.is_file() else None


def parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    """Split `a.b=value` into its keys and its value, which is read as TOML, and as text where it is no TOML.

    Raises:
        UserError: there is no `=`, or a part of the key is empty.
    """
    key, equals, text = override.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    if not equals or not all(keys):
        raise UserError(f"--set {override}: write it as key=value or table.key=value, such as --set steps=20")
    return keys, _parse_value(text.strip())


def overrides_by_section(overrides: Iterable[str], sections: Sequence[str]) -> dict[str, list[str]]:
    """Sort overrides such as `gcpo.steps=20` by section, and take its name off; for commands that run every stage.

    Raises:
        UserError: an override that names none of the sections.
    """
    sorted_overrides: dict[str, list[str]] = {section: [] for section in sections}
    for override in overrides:
        (first, *rest), _ = parse_override(override)
        if first not in sorted_overrides or not rest:
            hint = _suggest(first, sections, "sections")
            raise UserError(f"--set {override}: start with a section, as in {sections[0]}.key=value{hint}")
        sorted_overrides[first].append(override.partition(".")[2].strip())
    return sorted_overrides


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The dotted names of what differs between two dumped configurations, sorted.

    A missing key is as one that is None, but within lists: a run of an earlier version goes on where a setting came
    that is off.
    """
    old, new = _flat(before), _flat(after)
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))


def decisive(config: Any, document: Any) -> Any:
    """A dump, of `config` or of an earlier state of it, without what is `operational` in it at any depth."""
    if isinstance(config, BaseModel) and isinstance(document, dict):
        left_out = config.operational if isinstance(config, Config) else ()
        items = cast(Table, document).items()
        return {key: decisive(getattr(config, key, None), item) for key, item in items if key not in left_out}
    if isinstance(config, tuple) and isinstance(document, list):
        both = itertools.zip_longest(cast("tuple[Any, ...]", config), cast("list[Any]", document))
        return [decisive(*pair) for pair in both][: len(cast("list[Any]", document))]
    return document


def _recipes() -> Path:
    return Path(str(importlib.resources.files("edit_r1"))) / "recipes"


def _place(recipe: str | Path) -> tuple[str, Path]:
    """The name to call a recipe by in errors, and its path."""
    if not isinstance(recipe, str) or recipe.endswith(".toml"):
        return str(recipe), Path(recipe)
    known = presets()
    name = recipe if "/" in recipe else f"{_DEFAULT_FAMILY}/{recipe}"
    if name not in known:
        short = [preset.removeprefix(f"{_DEFAULT_FAMILY}/") for preset in known]
        hint = _suggest(recipe, short, "presets")
        raise UserError(f"no preset is called {recipe!r}{hint}; the path of a recipe of your own ends with .toml")
    return name, _recipes() / f"{name}.toml"


def _read_recipe(recipe: str | Path) -> tuple[str, str]:
    """The name to call a recipe by in errors, and its text."""
    name, path = _place(recipe)
    try:
        return name, path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no recipe at {path}; check the path, or name a preset: {', '.join(presets())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} cannot be read ({error}); give the path of a TOML file") from error


def _parse(text: str, name: str) -> Table:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"recipe {name} is not valid TOML: {error}") from error


def _parse_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if set(table) == {"value"} else text


def _section(table: Table, section: str, place: str) -> Table:
    found = table.get(section)
    if isinstance(found, dict):
        return cast(Table, found)
    tables = [key for key, value in table.items() if isinstance(value, dict)]
    raise UserError(f"{place} has no section [{section}]{_suggest(section, tables, 'sections')}")


def _assign(table: Table, keys: tuple[str, ...], value: Any, override: str) -> None:
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {override}: {key!r} is a value, not a table; it has no keys of its own")
        table = cast(Table, inner)
    table[keys[-1]] = value


def _validate(model_cls: type[ModelT], table: Table, place: str, overridden: set[tuple[str, ...]]) -> ModelT:
    # By way of JSON, where strictness still lets an array be a tuple and a string an enumeration or a path.
    document = json.dumps(table, default=lambda value: value.isoformat())
    try:
        return model_cls.model_validate_json(document)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # An unknown key explains the missing one beside it, so it comes first.
        errors.sort(key=lambda item: item["type"] != "extra_forbidden")
        texts = [_explain(item, model_cls, place, overridden) for item in errors[:_SHOWN_ERRORS]]
        if len(errors) > _SHOWN_ERRORS:
            texts.append(f"and {len(errors) - _SHOWN_ERRORS} more")
        raise UserError("; ".join(texts)) from error


def _explain(item: ErrorDetails, model_cls: type[BaseModel], place: str, overridden: set[tuple[str, ...]]) -> str:
    """One error of pydantic as a phrase that names the place, the key and the mend."""
    location = item["loc"]
    names = tuple(str(part) for part in location)
    dotted = ".".join(names) or "the recipe"
    given = any(names[: len(keys)] == keys or keys[: len(names)] == names for keys in overridden)
    where = f"--set {dotted} ({place})" if given else place
    if item["type"] == "extra_forbidden":
        hint = _suggest_key(model_cls, location)
        return f"{where}: unknown key {dotted!r}{hint}"
    if item["type"] == "missing":
        return f"{place}: key {dotted!r} is missing; add it, or give --set {dotted}=VALUE"
    message = item["msg"].removeprefix("Input ").removeprefix("Value error, ")
    value = json.dumps(item["input"], default=str)
    shown = value if len(value) <= 60 else f"{value[:57]}..."
    quotes = """; text that looks like a number needs quotes: '"..."'""" if item["type"] == "string_type" else ""
    return f"{where}: {dotted} = {shown} {message[:1].lower()}{message[1:]}{quotes}"


def _suggest(word: str, known: Iterable[str], kind: str) -> str:
    """`; did you mean 'x'?`, or the list of what is known."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known {kind}: {', '.join(names)}" if names else f"; there are no {kind} here"


def _suggest_key(model_cls: type[BaseModel], location: Sequence[str | int]) -> str:
    """Look for the nearest key in the same table first, then for the same key in another table."""
    word = str(location[-1])
    here = _model_at(model_cls, location[:-1])
    siblings = list(here.model_fields) if here else []
    if difflib.get_close_matches(word, siblings, n=1, cutoff=0.6):
        return _suggest(word, siblings, "keys")
    elsewhere = [path for path in _dotted_fields(model_cls) if path.rsplit(".", 1)[-1] == word]
    if elsewhere:
        return f"; did you mean {elsewhere[0]!r}?"
    return _suggest(word, siblings, "keys")


def _model_at(model_cls: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel] | None:
    """The model that validates the table at `location` (keys and array indices), where it can be told."""
    found: type[BaseModel] | None = model_cls
    for part in location:
        if isinstance(part, int):
            continue
        field = found.model_fields.get(part) if found else None
        found = _inner_model(field.annotation) if field else None
    return found


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model in `Model | None`, `tuple[Model, ...]` or `dict[str, Model]`; None where there is none or several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (Union, types.UnionType, tuple, list, dict):
        models = {model for part in typing.get_args(annotation) if (model := _inner_model(part))}
        return models.pop() if len(models) == 1 else None
    return None


def _dotted_fields(model_cls: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in model_cls.model_fields.items():
        names.append(f"{prefix}{name}")
        inner = _inner_model(field.annotation)
        if inner is not None and inner is not model_cls:
            names.extend(_dotted_fields(inner, f"{prefix}{name}."))
    return names


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(cast("Mapping[str, Any]", value), f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
