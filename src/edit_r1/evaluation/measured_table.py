"""Single measurements in `results/` as tables: steps at full size, fitness as a reward, what a score is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from edit_r1.evaluation.claims_table import Row, percent, table

Report = Mapping[str, Any]
"""What a benchmark wrote."""
_GIB = 2**30


def kontext_table(report: Report) -> str:
    """What `benchmarks/kontext_step.py` measured, and on what."""
    lines = [
        [
            name,
            f"{part['seconds']:.1f}",
            f"{part['share']:.0%}",
            f"{part['peak_bytes'] / _GIB:.1f}",
            f"{part['operations'] / 1e12:,.0f}",
            f"{part['floor_seconds']:.2f}",
            f"{part['mfu']:.1%}",
            f"{part['hfu']:.1%}",
        ]
        for name, part in report["parts"].items()
    ]
    words = (
        f"On one {report['environment']['gpus'][0]}: the architecture of FLUX.1-Kontext "
        f"({report['frozen_parameters']:,} frozen and {report['trained_parameters']:,} trained parameters) and a "
        f"Qwen3-VL-4B, {report['edits']} edits of {report['side']} pixels in {report['config']['sample_steps']} steps "
        f"of which {len(report['config']['sde_steps'])} is trained, a trace of 256 tokens for each. Median of "
        f"{report['repeats']} steps, after one that is not counted."
    )
    return f"{words}\n\n" + table(["part", "seconds", "share", "peak GiB", "TFLOP", "floor, s", "MFU", "HFU"], lines)


def verifier_table(report: Report) -> str:
    """What `benchmarks/verifier_step.py` measured, and on what."""
    lines = [
        [
            name,
            str(part["rows"]),
            f"{part['tokens']:,}",
            f"{part['seconds']:.1f}",
            f"{part['tokens_per_second']:,.0f}",
            f"{part['peak_bytes'] / _GIB:.1f}",
            f"{part['doctor_peak_bytes'] / _GIB:.1f}",
        ]
        for name, part in ((name, report[name]) for name in ("cold_start", "gcpo"))
    ]
    gcpo = report["gcpo"]
    words = (
        f"On one {report['environment']['gpus'][0]}: the architecture of Qwen2.5-VL-7B ({report['parameters']:,} "
        f"parameters, {gcpo['trained_parameters']:,} of adapters), prompts of {gcpo['prompt']} tokens with two "
        f"pictures and traces of {gcpo['answer']}. GCPO's {gcpo['rows']} traces are written by transformers' "
        f"`generate`: {gcpo['writing']:.1f} of its seconds, {gcpo['written_per_second']:.0f} tokens a second."
    )
    head = ["step", "rows", "tokens", "seconds", "tokens/s", "peak GiB", "by the doctor, GiB"]
    return f"{words}\n\n" + table(head, lines)


def sanity_table(rows: Sequence[Row]) -> str:
    """A column for each verifier: percent of tasks below the right edit, and gains; bold where an attack succeeds."""

    def cell(attack: Mapping[str, Any]) -> str:
        gain = "" if attack["gain"] is None else f" ({attack['gain']:+.1f})"
        text = f"{100 * attack['below']:.0f}{gain}"
        return text if attack["passed"] else f"**{text}**"

    attacks = rows[0]["attacks"] if rows else ()
    lines = [[f"`{name}`", *(cell(row["attacks"][name]) for row in rows)] for name in attacks]
    lines.append(["fit", *("yes" if row["fit"] else "**no**" for row in rows)])
    return table(["attack", *(row["verifier"].removeprefix("runs/claims/") for row in rows)], lines)


def calibration_table(rows: Sequence[Row]) -> str:
    """Ties half of each way to make a number of traces: a line for each arm and size, means over seeds.

    The verifiers are those of `runs/claims`: `runs/claims/<size>/seed<n>/<arm>`.
    """

    def kind(row: Row) -> tuple[str, str]:
        *_, size, _, arm = str(row["verifier"]).split("/")
        return size, arm

    found = {key: list(those) for key, those in groupby(sorted(rows, key=kind), kind)}
    ways = list(dict.fromkeys((way["score"], way["traces"]) for row in rows for way in row["scores"]))
    lines: list[list[str]] = []
    for (size, arm), those in sorted(found.items(), key=lambda item: (item[0][1], "sml".index(item[0][0]))):
        worth = [[w for row in those for w in row["scores"] if (w["score"], w["traces"]) == way] for way in ways]
        lines.append([arm, size, str(len(those)), *(percent(one, "tie_half") for one in worth)])
    return table(["arm", "size", "seeds", *(f"{score}, {traces}" for score, traces in ways)], lines)


def variants_table(rows: Sequence[Row]) -> str:
    """Verifiers that were trained otherwise than those of the claims, `.../<name>/seed<n>`: means over seeds."""

    def name(row: Row) -> str:
        return str(row["verifier"]).split("/")[-2]

    lines: list[list[str]] = []
    for variant, found in groupby(sorted(rows, key=name), name):
        those = list(found)
        test, held = ([row[split] for row in those] for split in ("test", "heldout"))
        kinds = ("category_tie_half", "pairing_tie_half", "fault_tie_half")
        shown = [percent(test, "tie_half"), percent(those, "weighted_tie_half"), percent(test, "check_accuracy")]
        lines.append([variant, str(len(those)), *shown, *(percent(held, kind) for kind in kinds)])
    head = ["variant", "seeds", "ties half", "ties half, by checks", "true checks"]
    return table([*head, "held-out category", "pairing", "fault"], lines)
