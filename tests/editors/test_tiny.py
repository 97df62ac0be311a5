"""The tiny editor's parts fit the world: its words, its text length, its latents."""

import torch

from edit_r1.editors.kontext import KontextEditor
from edit_r1.editors.tiny import TinyEditorSize, build_text_tokenizer
from edit_r1.verifier.tiny import END, PAD, UNKNOWN
from edit_r1.world.scene import Split
from edit_r1.world.tasks import generator, sample_task
from edit_r1.world.words import vocabulary


def test_every_instruction_is_known_and_fits() -> None:
    size = TinyEditorSize()
    tokenizer = build_text_tokenizer(vocabulary(), size.text_tokens)
    splits: tuple[Split, ...] = ("train", "test", "heldout")
    for split in splits:
        rng = generator(3, split)
        texts = [sample_task(rng, split, "compound").instruction for _ in range(60)]
        texts += [sample_task(rng, split).instruction for _ in range(60)]
        for ids in tokenizer(texts)["input_ids"]:
            assert tokenizer.convert_tokens_to_ids(UNKNOWN) not in ids
            assert len(ids) <= size.text_tokens


def test_text_ends_with_the_end_token_and_pads_on_the_right() -> None:
    tokenizer = build_text_tokenizer(vocabulary(), 8)
    (ids,) = tokenizer(["Remove the red circle"], padding="max_length", max_length=8)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["remove", "the", "red", "circle", END, PAD, PAD, PAD]


def test_latents_are_64_tokens_of_16_numbers_and_decode_to_the_images_size(editor: KontextEditor) -> None:
    """Tokens much narrower than the transformer: wide ones were seen not to learn (docs of the stack)."""
    latents = editor.encode_images(torch.zeros(2, 3, 64, 64))
    assert latents.shape == (2, 64, 16)
    assert editor.decode(latents).shape == (2, 3, 64, 64)
    assert editor.pipeline.transformer.inner_dim == 128


def test_the_pooled_text_is_that_of_the_end_token(editor: KontextEditor) -> None:
    """CLIP pools at the end token: what comes after (padding) must not matter, what comes before must."""
    _, pooled = editor.encode_text(["remove the red circle", "remove the blue circle"])
    assert (pooled[0] - pooled[1]).abs().max() > 1e-4
    clip, tokenizer = editor.pipeline.text_encoder, editor.pipeline.tokenizer
    short = torch.tensor(tokenizer(["remove the red circle"])["input_ids"])
    torch.testing.assert_close(clip(short).pooler_output[0], pooled[0], atol=1e-5, rtol=1e-4)
