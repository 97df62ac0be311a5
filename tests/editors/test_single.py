"""One edit alone: the shape of its source, and the settings of a recipe."""

from dataclasses import replace

import pytest
import torch
from tests.editors.conftest import tiny_editor

from edit_r1.editors.base import edit, to_pil
from edit_r1.editors.kontext import KontextEditor
from edit_r1.editors.single import edit_one, sampling_editor
from edit_r1.records import EditTask
from edit_r1.stages import SampleConfig

CONFIG = SampleConfig(steps=2)


@pytest.mark.parametrize(
    ("source", "shape"), [((64, 64), (64, 64)), ((300, 300), (64, 64)), ((128, 64), (88, 48)), ((1, 1000), (8, 2024))]
)
def test_an_edit_has_the_shape_of_its_source(
    editor: KontextEditor, source: tuple[int, int], shape: tuple[int, int]
) -> None:
    """64 x 64 pixels at a ratio of 2 are 90.5 x 45.3: 11 and 6 tokens of 8 pixels; and no side has less than one."""
    fitted = editor.fitted(*source)
    assert (fitted.width, fitted.height) == shape
    assert (editor.width, editor.height) == (64, 64)  # it stays as it was
    again = fitted.fitted(64, 64)
    assert (again.width, again.height) == (64, 64)  # the area is the first editor's, however often it is fitted


def test_a_square_source_is_edited_as_ever_and_a_wide_one_is_not_squashed(
    editor: KontextEditor, tasks: list[EditTask]
) -> None:
    """Bitwise what `edit` makes of a square source, large or not; of a wide one what an editor of its size makes."""
    for task in (tasks[0], replace(tasks[0], source=tasks[0].source.resize((100, 100)))):
        (plain,) = to_pil(edit(editor, [task], 2, seed=4))
        assert edit_one(editor, task, CONFIG, seed=4).tobytes() == plain.tobytes()
    wide = replace(tasks[0], source=tasks[0].source.resize((128, 64)))
    (expected,) = to_pil(edit(KontextEditor(editor.pipeline, height=48, width=88), [wide], 2, seed=4))
    assert expected.size == (88, 48)
    assert edit_one(editor, wide, CONFIG, seed=4).tobytes() == expected.tobytes()


def test_the_settings_reach_the_editor(tmp_path, tasks: list[EditTask]) -> None:
    """Size, guidance and precision; bfloat16 weights sample under autocast."""
    tiny_editor().save(tmp_path / "editor")
    plain = sampling_editor(tmp_path / "editor", CONFIG)
    assert (plain.height, plain.width, plain.guidance) == (64, 64, 2.5)
    assert {weight.dtype for weight in plain.transformer.parameters()} == {torch.float32}
    config = SampleConfig(steps=2, height=32, width=16, guidance=1.5, bf16=True)
    other = sampling_editor(tmp_path / "editor", config)
    assert (other.height, other.width, other.guidance) == (32, 16, 1.5)
    assert {weight.dtype for weight in other.transformer.parameters()} == {torch.bfloat16}
    assert edit_one(other, tasks[0], config, seed=0).size == (24, 24)  # 32 x 16 pixels, square: 22.6
