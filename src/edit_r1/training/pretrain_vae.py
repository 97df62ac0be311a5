"""The tiny editor's VAE: real `AutoencoderKL` classes, trained to reconstruct scenes of the built-in world. Ours.

Shapes: B batch, C H W image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from edit_r1.runs.checkpoint import load_checkpoint, save_checkpoint
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run
from edit_r1.stages import PretrainEditorConfig
from edit_r1.training.steps import learning_rate, set_rate, update
from edit_r1.world.oracle import read_images
from edit_r1.world.render import Array, render
from edit_r1.world.scene import Split, sample_scene
from edit_r1.world.tasks import generator, split_of_scene

_EVALUATION_SEED = 1


def vae_loss(vae: nn.Module, images: Tensor, l1_weight: float, kl_weight: float) -> tuple[Tensor, dict[str, float]]:
    """Reconstruction (mean square and absolute error per number, pixels in [0, 1]) plus KL per latent number.

    Args:
        vae: an AutoencoderKL.
        images: [B, 3, H, W] in [-1, 1].
        l1_weight: weight of the absolute error.
        kl_weight: weight of the KL; small: it only keeps latents from growing and the decoder used to a little noise.
    """
    posterior = vae.encode(images).latent_dist  # type: ignore[operator]
    decoded = vae.decode(posterior.sample()).sample  # type: ignore[operator]
    error = (decoded - images) / 2
    mse = error.square().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    loss = mse + l1_weight * error.abs().mean() + kl_weight * kl
    return loss, {"rms": float(mse.detach().sqrt()), "kl": float(kl.detach())}


def sample_images(rng: Generator, count: int, split: Split) -> Array:
    """Clean images of random scenes of a split, [count, 64, 64, 3] in [0, 1]."""
    images: list[Array] = []
    while len(images) < count:
        scene = sample_scene(rng)
        if split_of_scene(scene) == split:
            images.append(render(scene))
    return np.stack(images)


@torch.no_grad()
def reconstruction_metrics(vae: Any, count: int) -> dict[str, float]:
    """On validation scenes: residual (RMS in [0, 1], mean and 95th percentile) and the share read back exactly."""
    images = sample_images(generator(_EVALUATION_SEED, "val"), count, "val")
    decoded = [vae.decode(vae.encode(part).latent_dist.mode()).sample for part in to_model(images).split(64)]
    again = (torch.cat(decoded) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    again = np.round(again * 255) / 255
    rms = np.sqrt(((again - images) ** 2).mean((1, 2, 3)))
    pairs = zip(read_images(again), read_images(images), strict=True)
    exact = [read.scene == true.scene and not read.defects for read, true in pairs]
    return {
        "vae_rms": float(rms.mean()),
        "vae_rms_p95": float(np.quantile(rms, 0.95)),
        "vae_read_back": float(np.mean(exact)),
    }


def train_vae(vae: Any, config: PretrainEditorConfig, record: Run, seed: int) -> dict[str, float]:
    """Stage one: reconstruct clean scenes, then set the scale and the shift that give latents mean 0 and variance 1."""
    vae.to(memory_format=torch.channels_last)
    done = record.path / "checkpoint" / "vae.safetensors"
    if done.is_file():
        tensors, state = load_checkpoint(done)
        vae.load_state_dict(tensors)
        vae.register_to_config(**state["latents"])
        return state["metrics"]
    record.rewind(-config.vae_steps - 1)
    rng = generator(seed, "train")
    optimizer = torch.optim.AdamW(vae.parameters(), config.vae_learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    with track("VAE", config.vae_steps) as bar:
        for step in range(config.vae_steps):
            set_rate(optimizer, config.vae_learning_rate * learning_rate(step, config.vae_steps, 100, 1.0))
            images = to_model(sample_images(rng, config.vae_batch, "train"))
            loss, metrics = vae_loss(vae, images, config.vae_l1_weight, config.vae_kl_weight)
            update(optimizer, loss)
            bar.advance(1, **metrics)
            if step % config.log_every == 0:
                record.log(step - config.vae_steps, **metrics)
    latents = latent_statistics(vae, sample_images(rng, 256, "train"))
    vae.register_to_config(**latents)
    metrics = reconstruction_metrics(vae, config.evaluation_tasks)
    save_checkpoint(done, vae.state_dict(), {"latents": latents, "metrics": metrics})
    return metrics


@torch.no_grad()
def latent_statistics(vae: Any, images: Array) -> dict[str, float]:
    """The shift and the scale that give latents mean 0 and variance 1, as the configuration of a VAE names them."""
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in to_model(images).split(64)])
    return {"shift_factor": float(latents.mean()), "scaling_factor": float(1 / latents.std())}


def to_model(images: Array) -> Tensor:
    """[B, H, W, 3] in [0, 1] to [B, 3, H, W] in [-1, 1], the channels kept last in memory (faster on a CPU)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
