"""Recipes and overrides: strict, and every mistake says where it is and what would be right."""

import json
from enum import Enum
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

import edit_r1.config
from edit_r1 import stages
from edit_r1.config import (
    Config,
    changed_keys,
    decisive,
    dump,
    load_recipe,
    overrides_by_section,
    parse_override,
    presets,
)
from edit_r1.errors import UserError


class Colour(Enum):
    RED = "red"


class Optimizer(Config):
    learning_rate: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)


class Phase(Config):
    steps: int


class Stage(Config):
    steps: int = Field(ge=1)
    optimizer: Optimizer = Optimizer()
    template: Literal["compact", "verify"] = "compact"
    name: str = "run"
    resume_from: Path | None = None
    shuffle: bool = True
    phases: tuple[Phase, ...] = ()
    teacher: Optimizer | None = None
    colour: Colour = Colour.RED


RECIPE = """
[gcpo]
steps = 60
optimizer.learning_rate = 2e-5
optimizer.betas = [0.9, 0.95]

[[gcpo.phases]]
steps = 5

[world]
scenes = 10
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return path


def message(recipe: Path | str, *overrides: str, section: str | None = "gcpo") -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(Stage, recipe, overrides, section)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_section_of_a_recipe(recipe: Path) -> None:
    stage = load_recipe(Stage, recipe, section="gcpo")
    assert stage == Stage(
        steps=60, optimizer=Optimizer(learning_rate=2e-5, betas=(0.9, 0.95)), phases=(Phase(steps=5),)
    )
    assert load_recipe(Stage, str(recipe), section="gcpo") == stage


def test_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "whole.toml"
    path.write_text('steps = 3\ncolour = "red"\nresume_from = "a/b"\n')
    stage = load_recipe(Stage, path)
    assert (stage.steps, stage.colour, stage.resume_from) == (3, Colour.RED, Path("a/b"))


def test_overrides_are_toml_values_or_bare_text(recipe: Path) -> None:
    stage = load_recipe(
        Stage,
        recipe,
        [
            "steps=7",
            "optimizer.learning_rate = 1",
            "optimizer.betas=[0.5, 0.6]",
            "name=two words = one",
            "template='verify'",
            "shuffle=false",
            "teacher.learning_rate=0.5",
            "steps=8",
        ],
        "gcpo",
    )
    assert stage.steps == 8
    assert stage.optimizer == Optimizer(learning_rate=1.0, betas=(0.5, 0.6))
    assert stage.name == "two words = one"
    assert (stage.template, stage.shuffle) == ("verify", False)
    assert stage.teacher == Optimizer(learning_rate=0.5)


def test_an_override_is_one_value() -> None:
    """A line break inside a value must not smuggle in another key."""
    assert parse_override("name=1\nsteps=2") == (("name",), "1\nsteps=2")


def test_unknown_keys_name_the_nearest(recipe: Path) -> None:
    text = message(recipe, "optimizer.learning_rat=1e-3")
    assert text.startswith("--set optimizer.learning_rat (recipe")
    assert text.endswith("unknown key 'optimizer.learning_rat'; did you mean 'learning_rate'?")
    assert "; did you mean 'steps'?" in message(recipe, "step=3")


def test_unknown_keys_are_sought_in_other_tables(recipe: Path) -> None:
    assert message(recipe, "learning_rate=1").endswith("did you mean 'optimizer.learning_rate'?")


def test_unknown_keys_without_a_neighbour_list_what_there_is(recipe: Path) -> None:
    assert message(recipe, "optimizer.zzz=1").endswith("unknown key 'optimizer.zzz'; known keys: learning_rate, betas")


def test_unknown_keys_in_the_file_name_the_file_and_the_section(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("\nsteps = 60", "\nstops = 60"))
    text = message(recipe)
    assert text.startswith(f"recipe {recipe} [gcpo]: unknown key 'stops'; did you mean 'steps'?")
    # What is missing because of the wrong spelling comes after it.
    assert text.endswith(f"recipe {recipe} [gcpo]: key 'steps' is missing; add it, or give --set steps=VALUE")


def test_unknown_keys_in_arrays_and_optional_tables(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("steps = 5", "steps = 5\nstep = 6"))
    assert "unknown key 'phases.0.step'; did you mean 'steps'?" in message(recipe)
    recipe.write_text(RECIPE)
    assert message(recipe, "teacher.beta=1").endswith("did you mean 'betas'?")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("steps=many", 'steps = "many" should be a valid integer'),
        ("steps='3'", 'steps = "3" should be a valid integer'),
        ("steps=2.5", "steps = 2.5 should be a valid integer"),
        ("steps=0", "steps = 0 should be greater than or equal to 1"),
        ("shuffle=1", "shuffle = 1 should be a valid boolean"),
        ("name=3", "name = 3 should be a valid string; text that looks like a number needs quotes: '\"...\"'"),
        ("template=compct", "template = \"compct\" should be 'compact' or 'verify'"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate = -1 should be greater than 0"),
        ("optimizer=3", "optimizer = 3 should be an object"),
    ],
)
def test_wrong_values_name_the_place(recipe: Path, override: str, expected: str) -> None:
    text = message(recipe, override)
    assert text.startswith(f"--set {override.partition('=')[0]}")
    assert expected in text


def test_a_wrong_value_in_the_file_names_the_file(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("steps = 60", 'steps = "sixty"'))
    assert message(recipe) == f'recipe {recipe} [gcpo]: steps = "sixty" should be a valid integer'


def test_long_lists_of_errors_are_cut(recipe: Path) -> None:
    text = message(recipe, "a1=1", "b2=1", "c3=1", "d4=1", "e5=1")
    assert text.count("unknown key") == 3
    assert text.endswith("; and 2 more")


@pytest.mark.parametrize("override", ["steps", "=3", ".steps=3", "optimizer.=3"])
def test_malformed_overrides(recipe: Path, override: str) -> None:
    assert message(recipe, override).startswith(f"--set {override}: write it as key=value")


def test_an_override_below_a_value(recipe: Path) -> None:
    assert "'steps' is a value, not a table" in message(recipe, "steps.a=1")


def test_missing_and_malformed_files(tmp_path: Path) -> None:
    assert message(tmp_path / "none.toml").startswith(f"no recipe at {tmp_path}/none.toml; check the path")
    bad = tmp_path / "bad.toml"
    bad.write_text("[gcpo]\nsteps = = 3\n")
    assert message(bad).startswith(f"recipe {bad} is not valid TOML: Invalid value (at line 2")
    bad.write_bytes(b"\xff\xfe\x00")
    assert message(bad).startswith(f"recipe {bad} cannot be read")
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    assert message(folder).startswith(f"recipe {folder} cannot be read")


def test_a_missing_section_names_the_nearest(recipe: Path) -> None:
    assert message(recipe, section="gpco") == f"recipe {recipe} has no section [gpco]; did you mean 'gcpo'?"
    assert message(recipe, section="evaluate").endswith("has no section [evaluate]; known sections: gcpo, world")


def test_presets_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("world/smoke", "world/default", "qwen_vl/seven"):
        file = tmp_path / f"{name}.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'[gcpo]\nsteps = 4\nname = "{name}"\n')
    monkeypatch.setattr(edit_r1.config, "_recipes", lambda: tmp_path)
    assert presets() == ["qwen_vl/seven", "world/default", "world/smoke"]
    assert load_recipe(Stage, "smoke", section="gcpo").name == "world/smoke"
    assert load_recipe(Stage, "world/default", section="gcpo").name == "world/default"
    assert load_recipe(Stage, "qwen_vl/seven", section="gcpo").name == "qwen_vl/seven"
    assert message("smok").startswith("no preset is called 'smok'; did you mean 'smoke'?")
    assert message("zzz").startswith("no preset is called 'zzz'; known presets: qwen_vl/seven, default, smoke;")


def test_the_shipped_presets_are_packaged() -> None:
    assert {"world/smoke", "world/default", "world/full"} <= set(presets())


def test_overrides_by_section() -> None:
    sections = ("world", "gcpo")
    assert overrides_by_section(["gcpo.steps=3", "gcpo.a.b = x.y", "world.n=1"], sections) == {
        "world": ["n=1"],
        "gcpo": ["steps=3", "a.b = x.y"],
    }
    with pytest.raises(UserError, match=r"--set gpco\.steps=3: start with a section.*; did you mean 'gcpo'\?"):
        overrides_by_section(["gpco.steps=3"], sections)
    with pytest.raises(UserError, match=r"start with a section, as in world\.key=value; known sections: world, gcpo"):
        overrides_by_section(["steps=3"], sections)


def test_values_never_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Stage(steps=1).steps = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_dump_is_json_and_comes_back() -> None:
    stage = Stage(steps=3, resume_from=Path("a/b"), phases=(Phase(steps=1),), teacher=Optimizer())
    document = json.loads(json.dumps(dump(stage)))
    assert document["phases"] == [{"steps": 1}]
    assert document["colour"] == "red"
    assert Stage.model_validate_json(json.dumps(document)) == stage


def test_changed_keys_are_dotted() -> None:
    before = {"steps": 3, "optimizer": {"rate": 1, "betas": [1, 2]}, "old": 1, "gone": None, "teacher": {"rate": 1}}
    after = {"steps": 3, "optimizer": {"rate": 2, "betas": [1, 2]}, "new": {}, "off": None, "teacher": None}
    assert changed_keys(before, after) == ["new", "old", "optimizer.rate", "teacher.rate"]
    assert changed_keys(before, before) == []


class Server(Config):
    operational: ClassVar[frozenset[str]] = frozenset({"url"})
    model: str = "a"
    url: str = "x"


class Asking(Config):
    operational: ClassVar[frozenset[str]] = frozenset({"patience"})
    patience: int = 1
    steps: int = 1
    one: Server | None = None
    several: tuple[Server, ...] = ()


def test_what_is_operational_is_not_decisive() -> None:
    """At any depth; more servers than before are more servers, and what has no such settings is compared whole."""
    now = Asking(one=Server(), several=(Server(), Server(model="b")))
    one, other = {"model": "a"}, {"model": "b"}
    assert decisive(now, dump(now)) == {"steps": 1, "one": one, "several": [one, other]}
    assert decisive(now, dump(Asking(patience=9, several=(Server(url="y"),)))) == {
        "steps": 1,
        "one": None,
        "several": [one],
    }
    three = dump(Asking(several=(Server(), Server(), Server(url="z"))))
    assert changed_keys(decisive(now, three), decisive(now, dump(now))) == ["one.model", "several"]
    assert decisive(now, {"inputs": {"url": "x"}, "one": {"url": "y"}}) == {"inputs": {"url": "x"}, "one": {}}


def test_what_is_operational_is_a_field() -> None:
    """A name that is none would be of no effect."""

    def below(cls: type[Config]) -> list[type[Config]]:
        return [cls, *(deeper for inner in cls.__subclasses__() for deeper in below(inner))]

    wrong = {cls.__name__: cls.operational - set(cls.model_fields) for cls in below(Config)}
    assert not any(wrong.values()), wrong
    assert "give_up_after" in stages.TracesConfig.operational
