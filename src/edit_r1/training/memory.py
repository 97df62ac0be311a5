"""What training a verifier needs of a GPU's memory: formulas over the sizes of a model and of a step, all in bytes.

A number is 4 bytes in float32 and 2 in bfloat16; c stands for the one that is computed in. What autograd keeps for the
backward pass was read off the layers of transformers and is held against saved tensors by a test. Attention is torch's
fused one, which keeps no table of tokens by tokens but the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

from edit_r1.stages import BackboneConfig
from edit_r1.training.architecture import Architecture, Tower

FLOAT32, BFLOAT16 = 4, 2
HEAD_TILE = 4096 * 32768
"""Numbers of the tile of tokens by words in which TRL computes log-probabilities, never all of them at once."""
VLLM_SHARE = 0.3
"""Part of the card that vLLM takes within a trainer's process: the default of TRL, which we leave."""


@dataclass(frozen=True)
class Work:
    """What one process passes through the model. Images have the largest size that is let through."""

    rows: int
    """Rows that are learnt from together: a micro batch."""
    prompt: int
    """Tokens of a prompt, images included."""
    answer: int
    """Tokens of a trace."""
    patches: int
    """Patches of the two images of a row."""
    trains_vision: bool = True
    whole_logits: bool = False
    """Whether log-probabilities of all words are held at once, as GCPO does where it reads a prompt once."""
    written: int = 0
    """Traces that this process writes at once."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    weights: int
    gradients: int
    optimiser: int
    activations: int
    cache: int
    """Keys and values of the traces that are being written, and the logits of their next tokens."""
    reserved: int = 0
    """What vLLM takes and keeps."""

    @property
    def peak(self) -> int:
        """The most that is in use at a time: traces are written when there are no gradients and no activations yet."""
        update = self.gradients + self.activations
        return self.weights + self.optimiser + self.reserved + max(update, self.cache)


def memory(size: Architecture, backbone: BackboneConfig, work: Work, gpus: int = 1, reserved: int = 0) -> Memory:
    """What one of `gpus` GPUs holds, with FSDP2 over all of them.

    FSDP2 cuts weights, gradients and optimiser states into `gpus` parts. Activations and the cache are of each
    process's own rows, and are not cut.
    """
    trained = trained_parameters(size, backbone, work.trains_vision)
    whole = weights(size, backbone)
    return Memory(
        weights=whole if gpus == 1 else -(-whole // gpus) + gathered(size, backbone),
        gradients=-(-FLOAT32 * trained // gpus),
        optimiser=-(-2 * FLOAT32 * trained // gpus),  # AdamW: a mean and a mean of squares for every parameter
        activations=activations(size, backbone, work)
        + (copies(size, backbone, work.trains_vision) if gpus == 1 else 0),
        cache=cache(size, backbone, work),
        reserved=reserved,
    )


def trained_parameters(size: Architecture, backbone: BackboneConfig, trains_vision: bool = True) -> int:
    """How many numbers are learnt: the adapters' with LoRA, r for each input and each output of an adapted layer."""
    if backbone.lora_rank:
        return backbone.lora_rank * size.adapted_width
    return size.parameters - (0 if trains_vision else size.vision_parameters)


def weights(size: Architecture, backbone: BackboneConfig) -> int:
    """The model as `load_backbone` holds it: in bfloat16 only where it is frozen. Adapters are always in float32."""
    if not backbone.lora_rank:
        return FLOAT32 * size.parameters
    held = BFLOAT16 if backbone.bf16 else FLOAT32
    return held * size.parameters + FLOAT32 * trained_parameters(size, backbone)


def copies(size: Architecture, backbone: BackboneConfig, trains_vision: bool = True) -> int:
    """The bfloat16 copies of float32 weights, which autocast makes and keeps until the end of the forward pass.

    FSDP2 has none: it gathers a layer in bfloat16 and gives it back (`gathered`). With checkpointing they are gone
    before gradients, which need more, are there: the backward pass makes those of one layer again.
    """
    full = backbone.bf16 and not backbone.lora_rank and not backbone.gradient_checkpointing
    return BFLOAT16 * trained_parameters(size, backbone, trains_vision) if full else 0


def gathered(size: Architecture, backbone: BackboneConfig) -> int:
    """What FSDP2 puts together on every GPU: the layer at work, the next one, and all that is outside of the layers."""
    largest = max(size.language.layer_parameters, size.vision.layer_parameters)
    return computed(backbone) * (2 * largest + size.other_parameters)


def computed(backbone: BackboneConfig) -> int:
    """Bytes of a number that is computed with: c."""
    return BFLOAT16 if backbone.bf16 else FLOAT32


def layer(tower: Tower, backbone: BackboneConfig, *, trained: bool, row: int = 0) -> int:
    """Bytes that a layer keeps of one token (or patch) for the backward pass, in a row of `row` tokens with padding.

    With h, a, f the widths of the tower, of all heads and of the MLP, d of a head and r the rank of adapters:

        two norms      2 * 4h          their inputs in float32
                       2 * 4h          and what their own weights multiply, where these are trained
        their outputs  c * 2h          inputs of linear layers; or
                       c * 5h          autocast's copies, one each for q, k, v, gate and up
        attention      c * 5a + 4a/d   q, k, v, the result, its copy for the last layer; a scale for each head
                       c * 7a + 4a/d   q, k, v together; q and k turned; results of windows, and joined
        mask           c * row         where rows are padded, whether this token may see each other
        head norms     2 * (8a + 4a)   Qwen3: inputs and outputs for q and k, of which autocast copies one
        MLP            c * 4f          gate, its activation, up, their product; 2f without a gate
        adapters       c * 7r          what goes from the first to the second matrix
    """
    c, width = computed(backbone), tower.heads * tower.head_dim
    norms = 2 * FLOAT32 * tower.hidden * (2 if trained else 1)
    inputs = c * tower.hidden * (5 if backbone.bf16 else 2)
    attention = c * width * (7 if tower.joint else 5) + FLOAT32 * tower.heads + c * row
    heads = FLOAT32 * (width + tower.kv_heads * tower.head_dim) * (2 if trained else 1) if tower.head_norms else 0
    between = c * tower.between * (4 if tower.gated else 2)
    return norms + inputs + attention + heads + between + c * 7 * backbone.lora_rank


def activations(size: Architecture, backbone: BackboneConfig, work: Work) -> int:
    """What the backward pass of a micro batch needs.

    Without checkpointing every layer keeps what `layer` says. With it a layer keeps its input alone, and one layer at a
    time is computed again and keeps the rest, which goes as its gradients come. The vision tower keeps nothing where it
    is not trained (`backbone.freeze`).
    """
    c, full, row = computed(backbone), not backbone.lora_rank, work.prompt + work.answer
    tokens, patches = work.rows * row, work.rows * work.patches
    if not (full and work.trains_vision):
        patches = 0
    language = tokens * layer(size.language, backbone, trained=full, row=row)
    vision = patches * layer(size.vision, backbone, trained=full)
    if backbone.gradient_checkpointing:
        residual = FLOAT32 if full else c  # the type of the embeddings, which is added to all along
        kept = size.language.layers * tokens * residual * size.language.hidden
        kept += size.vision.layers * patches * c * size.vision.hidden + max(language, vision)
    else:
        kept = size.language.layers * language + size.vision.layers * vision
    return kept + ends(size, backbone, tokens, patches) + head(size, backbone, work)


def ends(size: Architecture, backbone: BackboneConfig, tokens: int, patches: int) -> int:
    """What is kept outside of the layers.

    Of a token the last norm's 8h and its position's sines and cosines, 8d. Of a patch its pixels (three colours, two
    frames), and a quarter of its token's way through each merger: three layers of four patches' width, and a norm.
    """
    token = 2 * FLOAT32 * (size.language.hidden + size.language.head_dim)
    merger = (3 * computed(backbone) + 2 * FLOAT32) * size.vision.hidden
    return tokens * token + patches * (computed(backbone) * 6 * size.patch**2 + size.mergers * merger)


def head(size: Architecture, backbone: BackboneConfig, work: Work) -> int:
    """The end of the model, from hidden numbers to log-probabilities.

    TRL goes tile by tile: a tile, hidden numbers with their gradients in float32, and the gradient of the head where it
    is trained. GCPO without checkpointing holds all logits: themselves, their log-probabilities, and two more such
    tables while the entropy is computed; nearly always in float32.
    """
    words, hidden = size.vocabulary, size.language.hidden
    answers = work.rows * work.answer
    if work.whole_logits:
        return 4 * FLOAT32 * answers * words
    tile = min(answers * words, HEAD_TILE) * computed(backbone)
    return tile + 2 * FLOAT32 * answers * hidden + (0 if backbone.lora_rank else FLOAT32 * words * hidden)


def cache(size: Architecture, backbone: BackboneConfig, work: Work) -> int:
    """A key and a value for every head, layer and token of all traces that are written at once.

    One layer more, for a layer's cache is copied when it grows; and four tables of next words in float32 for sampling.
    """
    tower = size.language
    token = 2 * tower.kv_heads * tower.head_dim * computed(backbone) * (tower.layers + 1)
    return work.written * ((work.prompt + work.answer) * token + 4 * FLOAT32 * size.vocabulary)
