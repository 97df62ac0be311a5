"""Write docs/results.md from finished runs: `python docs/make_results.py runs/seed0 runs/seed1 runs/seed2`.

Each argument is the folder of an `edit-r1 demo` run, of any preset; tables have a column or rows per run, in the given
order. Without any, what the page says of the demo stays, and only the tables of the claims are written anew from
`results/`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from edit_r1.config import load_recipe
from edit_r1.evaluation.claims_plan import plan
from edit_r1.evaluation.claims_table import (
    NOISE,
    SETTINGS,
    VERIFIERS,
    arms_table,
    costs_table,
    curves_table,
    editors_table,
    gains_table,
    heldout_table,
    noise_table,
    table,
)
from edit_r1.evaluation.claims_verdicts import of_editors, of_verifiers, verdicts_table
from edit_r1.evaluation.demo_table import categories, editors, faults, targets, verifiers
from edit_r1.evaluation.measured_table import (
    calibration_table,
    kontext_table,
    sanity_table,
    variants_table,
    verifier_table,
)
from edit_r1.evaluation.rows import read_rows
from edit_r1.files import atomic_write
from edit_r1.stages import ClaimsRecipe

RESULTS = Path(__file__).parents[1] / "results"

PAGE = """# Results

    python docs/make_results.py {runs}

has written this page. Everything here is measured in the built-in world. Preferences are *simulated*: an annotator with
stated weights orders two edits by the oracle's truth. Held-out pairs have no label noise, and other scenes and other
sentences than training. Settings were chosen on validation data, with one exception: the share of faulty edits in the
editor base's training was set after a look at other tasks of `test`.

## Targets

{targets}

The runs:

{commands}

Seconds by stage (two threads ran on idle cores; runs with one thread beside other work, which says nothing of the
target):

{seconds}

## The verifier

The same pairs and 4 traces per edit for the cold start and for GCPO; the base is asked about fewer. A tie is wrong in
*pairwise accuracy* and half right in *ties half*; a coin has 50% there. *Checks*: share of checks that agree with the
oracle. Interval: 95%, bootstrap over sources, of the pairwise accuracy.

{verifiers}

Kinds never seen in training (split `heldout`: the category `material`, the pairing purple X, the fault `overshoot`;
the lessons in words of the verifier's base may hold one, no picture does; but the base has been asked what `material`
asks, of other edits). The run `full` was made before it was:

{heldout}

Share of the faults in an edit that a verifier sees, by the oracle: in edits with drawn faults, and in those that the
shipped editor made itself (of that a verifier learns less: it is what it meets as a reward).

{faults}

## The editor

Tasks of the split `test`, the same noise for both editors, deterministic sampling. *Success*: every principle is met,
as the oracle reads the image. *Follow*, *keep*, *quality*: every principle of that category. *Reward*: the verifier's
mean score. *Copies*: edits that show the source's scene again.

{editors}

Success by category, all runs of one preset together:

{categories}

"""

CLAIMS_TITLE = "## The claims about verifiers"
CLAIMS_PAGE = (
    CLAIMS_TITLE
    + """

    edit-r1 evaluate claims        # docs/claims.md says what is compared and how it is kept equal, and what was found

What was claimed and what was found. Gains are in points (of ties half, where nothing else is said), with a 95%
interval over the seeds {seeds} (Student's) where there are several; *in the mean*: large enough, but the interval
is not above 0. docs/claims.md says why, and what was tried.

{verdicts}

Means over these seeds, with the smallest and the largest. *Tokens*: written per trace. *TFLOP*: training on top of
pretraining. (Of all results, with further seeds and label noises, {rows} of {all_rows} rows are there.)

{arms}

On kinds never seen in training: the category `material` (half of the pairs), the pairing purple X (the others), and of
both the pairs in which one edit has the fault `overshoot`:

{heldout_kinds}

Gains:

{gains}

GCPO against wrong labels among the training pairs, on the seeds that have all of them:

{noise}

## What a score is worth

    edit-r1 evaluate calibration --model runs/claims/<size>/seed<n>/<arm>/model --data runs/claims/worlds/seed<n> \\
        --set pairs=500 --set traces=[1,4] --out runs/calibration/<arm>_<size><n>

Pairs in the preferred order, ties half, by the number that is made of one trace or of four: the score that it writes
(`model`), the expectation over the score's tokens (`expected`), the share of the checks that it calls met, with the
weights 3, 2, 1 of follow, keep, quality (`weighted`); of one greedy trace the score, the score times the probability of
the trace (`confident`), and the checks.

{calibration}

What an unmet check costs in the written score, in points (least squares over all traces of `test`, but for copies of
the source), and what a copy earns, which to teachers and annotators is worth 0:

{costs}

    python -m benchmarks.rules runs/claims/worlds/seed0 runs/claims/worlds/seed1 runs/claims/worlds/seed2

says what a verifier that sees everything would give. The teachers, from whom the cold start learns to score, count all
checks alike: 1.6, 1.8 and 1.8 points; they order 92.1, 92.0 and 91.8% of the pairs. The annotators' own rule costs 3.1,
1.7 and 0.9, and the weights 3, 2, 1 order 97.1, 96.5 and 96.5%.

## Variants

Verifiers that were trained otherwise than those of the claims, on the same data (docs/claims.md says why); the commands
are in `results/variants.json` (the bases of the sizes s and l are those of the rows of the recipe before,
and `src/edit_r1/assets/verifier` is the one that their commits ship).

{variants}

## Fit to be a reward

{sanity_commands}

Percent of tasks in which the verifier puts the attacked edit below the right one, in brackets what an injection
gains in points; bold is unfit (docs/sanity.md has the attacks and what is required).

{sanity}

## The claims about editors

    edit-r1 evaluate editor-claims

The verifiers, and so these rows (`results/editor_claims_before.json`), are those of the recipe before this one (commit
6c41eae; it did not ask the base questions that follow from no instruction, and did not teach a copy's worth); none was
made anew. The same tasks and noise for all arms of a seed. *Reward*: the mean score that the arm's own verifier writes
(training may also weigh it with its probability). *Gain*: of success over the base, in points. *Confirmed*: the gain of
success over the gain of that score (as a share of 10; where it rose by 0.1 or more). *Alarm*: the first step at which a
guard alarmed (docs/guards.md), seed by seed.

{editor_verdicts}

{editor_arms}

Curves, on the probe (96 tasks of `val`) while they train: by images, in brackets the seconds until then, and at equal
seconds. First by verifier:

{verifier_curves}

Then by objective, kernel and window; all with GCPO's verifier. (`gcpo` is DiffusionNFT with the confident score, the
default; all others but `score` are kinds of the paper's objective. The seconds of `gcpo` are of an earlier day; every
arm had one core, beside a busy one.) A share of 96 tasks has a standard error of 5 points, one of the 300 above of 2.9.

{setting_curves}

![Success on the probe against the seconds of training, each arm beside the default](images/editor_curves.svg)

## One step at full size

With random weights: seconds and memory depend on sizes, not on what the weights say.

    python -m benchmarks.kontext_step --group 8 --verifier-config src/edit_r1/recipes/qwen_vl/qwen3_vl_4b.json \\
        --repeats 2 --max-tokens 256 --out results/kontext_step.json

{kontext}

What encoding and decoding take is not in it. *Floor*: the larger of operations / peak and bytes / bandwidth, both
counted; *MFU*: operations / (seconds x peak); *HFU* counts what checkpointing computes again.

    python -m benchmarks.verifier_step --recipe qwen_vl/qwen2_5_vl_7b --set gcpo.vllm=off --set gcpo.pairs_per_step=1 \\
        --set gcpo.max_tokens=256 --set cold_start.batch_size=8 --steps 3 --out results/verifier_step.json

{verifier}

*Tokens*: all that pass through the model in a step, the prompts included. The recipe's own step of GCPO has eight
pairs and traces of up to 1024 tokens, written by vLLM.

docs/real_models.md has more of both, and what `edit-r1 doctor` had foretold.

## The oracle

    python benchmarks/oracle.py

reads 1000 clean images and 1000 with noise of 0.03 and a shift by one pixel without one error; docs/world.md has the
table.
"""
)


def _threads(folder: Path) -> int:
    environment = json.loads((folder / "environment.json").read_text())
    return environment["threads"] or environment["cpus"]  # without a limit there is a thread per core


def claims() -> str:
    """The part of the page that the tables in `results/` give, and how much of them there is."""
    judges = read_rows(RESULTS / "verifier_claims.json")
    recipe = load_recipe(ClaimsRecipe, "claims")
    judges = [row for row in judges if row["settings"] == recipe.digest(row["arm"], row["size"])]
    expected = 2 * len(plan(recipe.claims, NOISE))  # every result has two splits
    planned = recipe.claims.seeds
    three = [row for row in judges if row["seed"] in planned]
    edited = read_rows(RESULTS / "editor_claims_before.json")
    values = {
        "seeds": ", ".join(map(str, planned)),
        "verdicts": verdicts_table(of_verifiers(three)),
        "heldout_kinds": heldout_table(three),
        "rows": len(judges),
        "all_rows": expected,
        "arms": arms_table(three),
        "costs": costs_table(three),
        "gains": gains_table(three),
        "noise": noise_table(judges),
        "editor_verdicts": verdicts_table(of_editors(edited)),
        "editor_arms": editors_table(edited),
        "verifier_curves": curves_table(edited, VERIFIERS),
        "setting_curves": curves_table(edited, SETTINGS),
    }
    kontext, verifier = (json.loads((RESULTS / f"{name}_step.json").read_text()) for name in ("kontext", "verifier"))
    attacked = read_rows(RESULTS / "sanity.json")
    values |= {
        "kontext": kontext_table(kontext),
        "verifier": verifier_table(verifier),
        "sanity": sanity_table(attacked),
        "variants": variants_table(read_rows(RESULTS / "variants.json")),
        "calibration": calibration_table(
            [row for row in read_rows(RESULTS / "calibration.json") if row["verifier"].startswith("runs/claims/")]
        ),
        "sanity_commands": "\n".join(f"    {row['command']}        # commit {row['commit']}" for row in attacked),
    }
    return CLAIMS_PAGE.format(**values)


def page(folders: Sequence[Path]) -> str:
    """What the page says of the demo."""
    reports = [json.loads((folder / "report.json").read_text()) for folder in folders]
    demos = [json.loads((folder / "demo.json").read_text()) for folder in folders]
    found = [json.loads((folder / "evaluation/verifier/verifier.json").read_text()) for folder in folders]
    if any(demo.get("split", "test") != "test" for demo in demos):
        sys.exit("a run was measured on validation data; results are of the split test")
    presets = [demo["preset"] for demo in demos]
    names = [("" if demo["preset"] == "default" else f"{demo['preset']}, ") + f"seed {demo['seed']}" for demo in demos]
    threads = [_threads(folder) for folder in folders]
    commands = "\n".join(f"    {demo['command']}        # commit {demo['commit']}" for demo in demos)
    seconds = table(
        ["run", "threads", *demos[0]["stage_seconds"], "all"],
        [
            [name, str(count), *map(str, demo["stage_seconds"].values()), str(demo["seconds"])]
            for name, count, demo in zip(names, threads, demos, strict=True)
        ],
    )
    values = {
        "runs": " ".join(str(folder) for folder in folders),
        "targets": targets(reports, names, threads),
        "commands": commands,
        "seconds": seconds,
        "verifiers": verifiers(names, [report["verifier"] for report in reports]),
        "heldout": verifiers(names, [evaluation["heldout"] for evaluation in found]),
        "faults": faults(names, found),
        "editors": editors(reports, names),
        "categories": categories(folders, presets),
    }
    return PAGE.format(**values)


def main(folders: Sequence[Path], file: Path) -> None:
    """Write the page; without folders only its second part."""
    demo = page(folders) if folders else file.read_text(encoding="utf-8").split(CLAIMS_TITLE)[0]
    atomic_write(file, f"{demo.rstrip()}\n\n{claims()}")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]], Path(__file__).with_name("results.md"))
