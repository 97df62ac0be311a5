"""The tiny verifier: real Qwen3-VL classes of a small size, a word-level tokenizer, a processor of the same interface.

The stock processor needs torchvision for its video part; this one has no video part and needs none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.image_utils import load_image
from transformers.processing_utils import ProcessorMixin

from edit_r1.attention import without_cudnn
from edit_r1.errors import UserError
from edit_r1.stages import TinySize

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
SPECIAL = (PAD, UNKNOWN, START, END, VISION_START, VISION_END, IMAGE, VIDEO, "user", "assistant")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m.role }} "
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|> <|image_pad|> <|vision_end|> {% else %}{{ c.text }} {% endif %}"
    "{% endfor %}{% endif %}"
    " <|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: words between spaces, and the newline as a word of its own; lower case."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|[^\s]+"), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[START, VISION_START, VISION_END, IMAGE, VIDEO],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


class TinyQwenProcessor(ProcessorMixin):
    """Tokenizer and image processor of a tiny Qwen-VL, called like the stock processors."""

    attributes = ["image_processor", "tokenizer"]  # noqa: RUF012  (the base class's own convention)
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None, **_: Any) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)
        self.image_token, self.video_token = IMAGE, VIDEO
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
        self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  (the base also takes videos and audio)
        self, images: Any = None, text: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Tokenise texts and images; every image placeholder becomes as many tokens as its image has."""
        texts = [text] if isinstance(text, str) else list(text or [])
        kwargs = {k: v for k, v in kwargs.items() if k not in ("videos", "audio", "do_resize", "add_special_tokens")}
        vision: dict[str, Any] = {}
        flat = _flatten(images)
        if flat:
            vision = dict(self.image_processor(images=flat, return_tensors="pt"))
            counts = (vision["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2).tolist()
            texts = _expand(texts, counts)
        encoded = self.tokenizer(texts, **{"padding": False, **kwargs})
        data = {**encoded, **vision}
        if "return_mm_token_type_ids" in kwargs or flat:
            ids = encoded["input_ids"]
            data["mm_token_type_ids"] = (
                (ids == self.image_token_id).long()
                if isinstance(ids, torch.Tensor)
                else [[int(t == self.image_token_id) for t in row] for row in ids]
            )
        return BatchFeature(data)


def _flatten(images: Any) -> list[Image]:
    if images is None:
        return []
    if isinstance(images, (Image, str)):  # a server hands over addresses, as to the stock processors
        return [load_image(images)]
    return [image for item in images for image in _flatten(item)]


def _expand(texts: list[str], counts: list[int]) -> list[str]:
    """Repeat every placeholder as often as its image has tokens; ValueError when the two do not match in number."""
    remaining = iter(counts)
    expanded: list[str] = []
    for text in texts:
        pieces = text.split(IMAGE)
        joined = pieces[0]
        for piece in pieces[1:]:
            count = next(remaining, None)
            if count is None:
                raise ValueError("a text has more image placeholders than images")
            joined += " ".join([IMAGE] * count) + piece
        expanded.append(joined)
    if next(remaining, None) is not None:
        raise ValueError("there are more images than image placeholders in the texts")
    return expanded


def build_processor(words: Sequence[str], patch: int) -> TinyQwenProcessor:
    """A processor for 64x64 images: patches of `patch` pixels, merged 2x2."""
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=patch, temporal_patch_size=2, merge_size=2, min_pixels=64 * 64, max_pixels=64 * 64
    )
    return TinyQwenProcessor(image_processor, build_tokenizer(words))


def build_tiny_qwen(size: TinySize, tokenizer: Any) -> Qwen3VLForConditionalGeneration:
    """A random Qwen3-VL of the given size (call `torch.manual_seed` first)."""
    head_dim = size.hidden // size.heads
    thirds = head_dim // 2 // 3
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": size.hidden,
        "intermediate_size": 2 * size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [head_dim // 2 - 2 * thirds, thirds, thirds],
            "mrope_interleaved": True,
        },
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    vision = {
        "depth": size.vision_layers,
        "hidden_size": size.vision_hidden,
        "intermediate_size": 2 * size.vision_hidden,
        "num_heads": 4,
        "patch_size": size.patch,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": size.hidden,
        "num_position_embeddings": (64 // size.patch) ** 2,
        "deepstack_visual_indexes": list(range(size.vision_layers - 1)),
    }
    token = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token(IMAGE),
        video_token_id=token(VIDEO),
        vision_start_token_id=token(VISION_START),
        vision_end_token_id=token(VISION_END),
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def load_verifier_model(path: str | Path, dtype: torch.dtype | str = "auto") -> tuple[Any, Any]:
    """Model and processor of a verifier folder (safetensors), tiny or real; `UserError` when it is of another kind."""
    without_cudnn()
    folder = Path(path)
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(
            f"{folder} is no verifier model: it has no config.json; give a folder that `edit-r1 verifier` wrote"
        )
    damaged = "is its download whole? give a folder with all files of a verifier"
    try:
        kind = json.loads(config.read_text())["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{config} cannot be read ({error!r}): {damaged}") from error
    if kind not in ("qwen3_vl", "qwen2_5_vl", "qwen2_vl"):
        raise UserError(f"{folder} holds a model of type {kind!r}; a verifier is a Qwen-VL model")
    try:
        model = AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True, dtype=dtype)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the weights in {folder} cannot be read ({error}): {damaged}") from error
    own = folder / "processor_config.json"
    kind = TinyQwenProcessor if own.is_file() and "TinyQwenProcessor" in own.read_text() else AutoProcessor
    try:
        processor = kind.from_pretrained(folder)
    except ImportError as error:
        raise UserError(
            f"the processor in {folder} needs torchvision; install the build that goes with your torch"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"the processor in {folder} cannot be read ({error}): {damaged}") from error
    if not hasattr(processor, "image_processor"):  # AutoProcessor takes a tokenizer alone for all of it
        raise UserError(f"the processor in {folder} has no part for pictures: {damaged}")
    processor.tokenizer.padding_side = "left"  # stock Qwen-VL pads right; answers follow the prompts of a batch
    return model, processor
