"""Not a test: one run of GCPO with scripted traces, to be started by torchrun in as many processes as are wanted.

python -m torch.distributed.run --standalone --nproc_per_node 2 several_processes.py DATA MODEL OUT PAIRS SETTINGS

With a further number STOP it is killed after so many steps; without, it goes on where it was.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from edit_r1.records import Check, Principle, Provenance, Verdict
from edit_r1.stages import GcpoConfig
from edit_r1.training import gcpo
from edit_r1.verifier.verifier import Completion

TRACES = 4


def written(self: gcpo.GcpoTrainer, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
    """Traces that depend on the prompt and on their place in the group alone, in place of the model's."""
    ends = self._tokenizer.eos_token_id
    rows = [torch.Generator().manual_seed(sum(ids) + row % TRACES) for row, ids in enumerate(prompt_ids)]
    texts = [torch.randint(10, 200, (4 + i % TRACES % 3,), generator=g).tolist() for i, g in enumerate(rows)]
    return [[*text, ends] for text in texts], None


def judge(completion: Completion, questions: list[str]) -> Verdict:
    """A score and answers that depend on the trace alone."""
    size = sum(map(ord, completion.text))
    checks = [Check(Principle(question, "follow"), (size + k) % 3 > 0, "") for k, question in enumerate(questions)]
    return Verdict(tuple(checks), float(size % 11), completion.text, Provenance("", "", "", "", 0))


def settings(pairs: int, **more: Any) -> GcpoConfig:
    """Two steps of so many pairs on each process."""
    sizes: dict[str, Any] = {"steps": 2, "pairs_per_step": pairs, "traces": TRACES, "micro_batch": 8, "max_tokens": 8}
    return GcpoConfig.model_validate({**sizes, "probe_every": 50, **more})


def stop_after(steps: int) -> None:
    """Let training die there."""
    prepare = gcpo.GcpoTrainer._prepare_inputs

    def dying(self: gcpo.GcpoTrainer, generation_batch: Any) -> dict[str, Any]:
        if self.state.global_step == steps:
            sys.exit("stopped")
        return prepare(self, generation_batch)

    gcpo.GcpoTrainer._prepare_inputs = dying


if __name__ == "__main__":
    data, model, out = (Path(name) for name in sys.argv[1:4])
    gcpo.GcpoTrainer._generate_single_turn = written
    gcpo.trace_verdict = judge
    for steps in sys.argv[6:]:
        stop_after(int(steps))
    gcpo.run(
        settings(int(sys.argv[4]), **json.loads(sys.argv[5])), data=data, model=model, out=out, seed=0, resume=True
    )
