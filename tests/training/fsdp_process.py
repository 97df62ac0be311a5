"""One process of a run of both stages, sharded by FSDP2 or not; started by torchrun from `test_fsdp.py`.

accelerate offers FSDP only where it finds a GPU. Here its word for "several processes on CPUs" is replaced; the rest
is its own FSDP2, on gloo.
"""

from __future__ import annotations

import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import torch.distributed
from accelerate.state import AcceleratorState, DistributedType
from transformers import Trainer

from edit_r1.records import Provenance, Verdict
from edit_r1.stages import BackboneConfig, ColdStartConfig, GcpoConfig
from edit_r1.training import cold_start, gcpo
from edit_r1.verifier.verifier import Completion, Judgement


def shard_on_cpus() -> None:
    """Let accelerate take its FSDP branch wherever it has been given a plugin."""
    original, plugins = AcceleratorState.__init__, []

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        plugins.extend([fsdp_plugin] if fsdp_plugin is not None else [])
        if plugins:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugins[0]

    AcceleratorState.__init__ = init


def script_scores() -> None:
    """Scores for the nonsense of a random model, so that GCPO has something to learn."""
    script = cycle([7.0, 3, 5, 9, 6, 2, 8, 4])

    def verdict(completion: Completion, questions: list[str]) -> Verdict:
        return Verdict((), next(script), completion.text, Provenance("script", "", "", "", 0))

    gcpo.trace_verdict = verdict


def say_what_parameters_are() -> None:
    """Print the class of the parameters at every step: DTensor where they are sharded."""
    original = Trainer.training_step

    def step(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        kinds = sorted({type(p).__name__ for p in model.parameters()})
        sys.stdout.write(f"parameters: {kinds}\n")  # in one piece, for the other process writes too
        sys.stdout.flush()
        return original(self, model, *args, **kwargs)

    Trainer.training_step = step


def end_apart() -> None:
    """Let the second process write shorter traces, and make what a probe says depend on all its words."""
    original = gcpo.GcpoTrainer._generate_single_turn

    def write(self: gcpo.GcpoTrainer, *args: Any, **kwargs: Any) -> Any:
        self.generation_config.max_new_tokens = 8 - 5 * self.accelerator.process_index
        traces, rest = original(self, *args, **kwargs)
        sys.stdout.write(f"traces: {self.accelerator.process_index} {max(map(len, traces))}\n")
        return traces, rest

    def said(judgements: list[Judgement], gold: list[list[bool]]) -> float:
        texts = [getattr(verdict, "text", "") for judgement in judgements for verdict in judgement.verdicts]
        assert any(texts)
        return float(sum(map(ord, "".join(texts))))

    gcpo.GcpoTrainer._generate_single_turn = write
    gcpo.check_agreement = said


def main(world: Path, model: Path, out: Path, sharded: bool) -> None:
    """Two steps of a cold start of all weights, then a step of GCPO with adapters."""
    if sharded:
        shard_on_cpus()
    script_scores()
    end_apart()
    say_what_parameters_are()
    full = BackboneConfig(template="verify", gradient_checkpointing=True)
    start = ColdStartConfig(backbone=full, steps=2, batch_size=2, checkpoint_every=1)
    cold_start.run(start, data=world, model=model, out=out / "start", seed=0, resume=False)
    lora = full.model_copy(update={"lora_rank": 4, "lora_alpha": 8})
    config = GcpoConfig(
        backbone=lora,
        steps=1,
        pairs_per_step=1,
        traces=4,
        micro_batch=4,
        max_tokens=8,
        checkpoint_every=1,
        probe_every=1,
    )
    gcpo.run(config, data=world, model=out / "start" / "model", out=out / "gcpo", seed=0, resume=False)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "sharded")
