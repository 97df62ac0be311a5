"""Write and read a verifier's trace: rules only, no model, no guess (paper section 1: the score is extracted by rules).

The format, one line per principle and then the score:

    <think> free reasoning, never read </think>
    [1] top-left large plain red circle > large plain green circle => yes
    [2] the sign moved <box> 4 4 28 28 </box> => no
    <average> 0.5 </average>
    <score> 4.0 </score>

What is read, and how:

| the text has | reading |
|---|---|
| `<think> ... </think>`, or only its end | all up to the last `</think>` is reasoning: no check or score in it counts |
| blank lines, code fences, bullets before `[k]`, `**` | ignored |
| capital letters, spaces inside a tag or `[ 1 ]`, a full stop or quotes around the answer, `⇒` | as if plain |
| lines of prose before the first check, after an answered one, or after the score | ignored |
| a reason over several lines | joined; the check ends with the first line that ends in `=> yes` or `=> no` |
| several arrows on the line | the last one is the answer |
| checks out of order | put in order |
| a `<box>` in a reason | moved into `Check.box` (the last one); if it is not four ordered whole numbers it stays text |
| no `<average>`, or one that disagrees with the checks | the score counts |
| `Score: <score> 7 </score>`, `<score>` on three lines, `7/10` in the tag | 7 |
| an empty principle list | a verdict of a score alone ("think only" in the paper) |

| the text has (first row that fits) | `Failure` |
|---|---|
| nothing, or nothing after the reasoning | `empty` |
| a `<think>` or `<score>` that never ends | `truncated` |
| `=> yes or no`, `[k]`, `<score> X </score>` | `echoed_template` |
| two score tags outside the reasoning, also when one is quoted in a reason | `several_scores` |
| no score, and the text stops inside a check, inside a tag, or after the first few checks | `truncated` |
| a number that is no principle's | `unknown_principle` |
| two checks of one principle | `duplicate_principle` |
| an answer that is neither yes nor no, no answer, or an answer without a number | `bad_answer` |
| a principle without a check | `missing_principle` |
| no score tag, or not on a line of its own after the last check | `no_score` |
| a score that is not a plain decimal number: `nan`, `eight`, `7,5`, `1e1` | `not_a_number` |
| a score below 0 or above 10 | `score_out_of_range` |
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from edit_r1.records import Check, Failure, FailureKind, Principle, Provenance, Verdict
from edit_r1.verifier.markers import ARROW, SCORE_CLOSE, SCORE_OPEN, neutralise, tag, without_bold

Box = tuple[int, int, int, int]

_THINK_OPEN, _THINK_CLOSE = tag("think(?:ing)?"), tag("think(?:ing)?", closing=True)
_AVERAGE_OPEN, _AVERAGE_CLOSE = tag("average"), tag("average", closing=True)
_BULLETS = r"[-*•>#\s]*"
_MARKER = re.compile(rf"{_BULLETS}\[\s*([0-9]+)\s*\](.*)", re.DOTALL)
_TEMPLATE_MARKER = re.compile(rf"{_BULLETS}\[\s*(?:k|n|i|number)\s*\]", re.IGNORECASE)
_ANSWER = re.compile(rf"{ARROW}\s*+[\"'`]?\s*+(yes|no)\s*+[.!]?\s*+[\"'`]?\s*+[.!]?$", re.IGNORECASE)
_TEMPLATE_ANSWER = re.compile(
    rf"{ARROW}\s*(?:yes\s*(?:or|/|\|)\s*no|no\s*(?:or|/|\|)\s*yes|<\s*answer\s*>|\.\.\.|…)\s*+[.]?\s*+$", re.IGNORECASE
)
_TAG_LINE = re.compile(
    r"(?:(?:average|mean)\s*:\s*+)?(?:<\s*average\s*>([^<]*)<\s*/\s*average\s*>)?\s*+"
    r"(?:(?:final\s+|overall\s+)?score\s*:\s*+)?(?:<\s*score\s*>([^<]*)<\s*/\s*score\s*>)?\s*+[.]?",
    re.IGNORECASE,
)
_SPLIT_TAG = re.compile(r"(<\s*(score|average)\s*>)\s*+([^<\n]*+)\s*+(<\s*/\s*\2\s*>)", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"[xynsk]|\.\.\.|…|score|number|a number|value|0\s*(?:-|–|to|\.\.)\s*10|\{.*\}|\[.*\]|_+|\?+", re.IGNORECASE
)
_NUMBER = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+))(?:\s*/\s*10(?:\.0)?)?")
_BOX = re.compile(
    r"<\s*box\s*>[\s\[(]*([0-9]{1,6})[\s,]+([0-9]{1,6})[\s,]+([0-9]{1,6})[\s,]+([0-9]{1,6})[\s\])]*<\s*/\s*box\s*>",
    re.IGNORECASE,
)


def plain_reason(text: str) -> str:
    """A reason as a trace may carry it: one line, without bold marks, control tokens, tags or markers. Idempotent."""
    return " ".join(neutralise(without_bold(text)).split())


def format_number(value: float) -> str:
    """Shortest plain decimal that reads back as `value`, with at least one decimal place: 7.5, 10.0, 0.25."""
    text = format(Decimal(repr(float(value))), "f")
    return text if "." in text else f"{text}.0"


def format_trace(checks: Sequence[Check], score: float) -> str:
    """Write checks and score as a trace that `parse_trace` reads back.

    Reasons are made plain (`plain_reason`), a box goes to the end of its reason, the average is rounded to one decimal
    (half to even). Raises `ValueError` for a score outside [0, 10].
    """
    if not 0.0 <= score <= 10.0:
        raise ValueError(f"score {score} is outside [0, 10]")
    lines = [_format_check(number, check) for number, check in enumerate(checks, start=1)]
    if checks:
        lines.append(f"<average> {sum(check.met for check in checks) / len(checks):.1f} </average>")
    lines.append(f"<score> {format_number(score)} </score>")
    return "\n".join(lines)


def _format_check(number: int, check: Check) -> str:
    parts = [f"[{number}]", plain_reason(check.reason)]
    if check.box is not None:
        parts.append("<box> {} {} {} {} </box>".format(*check.box))
    parts.append("=> yes" if check.met else "=> no")
    return " ".join(part for part in parts if part)


def parse_trace(text: str, principles: Sequence[Principle], provenance: Provenance) -> Verdict | Failure:
    """Read a trace, or say by name why it cannot be read; the tables above are the whole rule.

    Args:
        text: what the verifier wrote.
        principles: the questions it was asked, in the order of their numbers (1 first).
        provenance: kept in the verdict.

    Returns:
        A `Verdict` with each principle checked once, in order, and a score in [0, 10]; or a `Failure` with `text`.
    """
    checked = _checks(text, principles)
    if isinstance(checked, str):
        return Failure(checked, text)
    checks, layout = checked
    score = _read_score(layout)
    if isinstance(score, str):
        return Failure(score, text)
    return Verdict(checks=checks, score=score, trace=text, provenance=provenance)


def parse_checks(text: str, principles: Sequence[Principle]) -> tuple[Check, ...] | Failure:
    """Read the checks of a trace alone, by the same rule, where its score does not matter and may even be missing."""
    checked = _checks(text, principles)
    return Failure(checked, text) if isinstance(checked, str) else checked[0]


def thoughts(text: str) -> str:
    """The free reasoning of a trace, stripped of whatever a model or the parser would obey; empty where there is none.

    It is what stands before the last `</think>`, on as many lines as it has.
    """
    ends = list(_THINK_CLOSE.finditer(text))
    if not ends:
        return ""
    reasoning = _THINK_CLOSE.sub("", _THINK_OPEN.sub("", text[: ends[-1].start()]))
    return neutralise(reasoning).strip()


@dataclass
class _Block:
    """One check as written: its number, its lines, and its answer once a line ends in one."""

    number: int
    lines: list[str] = field(default_factory=lambda: [])
    met: bool | None = None

    def extend(self, line: str) -> None:
        self.lines.append(line)
        match = _ANSWER.search(" ".join(self.lines[-2:]))
        if match is not None:
            self.met = match[1].lower() == "yes"

    @property
    def text(self) -> str:
        return " ".join(self.lines).strip()

    @property
    def reason(self) -> str:
        return _ANSWER.sub("", self.text).strip()


@dataclass
class _Layout:
    """The lines of a trace, sorted: checks, scores that stand alone after the last check, and what does not belong."""

    blocks: list[_Block] = field(default_factory=lambda: [])
    scores: list[str] = field(default_factory=lambda: [])
    stray_answer: bool = False
    template: bool = False

    @classmethod
    def read(cls, body: str) -> _Layout:
        layout = cls()
        block: _Block | None = None
        for raw in _SPLIT_TAG.sub(r"\1 \3 \4", body).split("\n"):
            line = raw.strip()
            if not line or (line.startswith("```") and " " not in line):
                continue
            layout.template |= bool(_TEMPLATE_MARKER.match(line) or _TEMPLATE_ANSWER.search(line))
            marker, tags = _MARKER.fullmatch(line), _TAG_LINE.fullmatch(line)
            if marker is not None:
                block = _Block(int(marker[1][:9]))
                block.extend(marker[2].strip())
                layout.blocks.append(block)
                layout.scores.clear()  # a score must follow the last check
            elif tags is not None:
                block = None
                if tags[2] is not None:
                    layout.scores.append(tags[2].strip())
            elif block is not None and block.met is None:
                block.extend(line)
            elif _ANSWER.search(line):
                layout.stray_answer = True
        return layout


def _after_thinking(text: str) -> str:
    """What follows the last end of reasoning, without bold marks and with one kind of line end."""
    text = without_bold(text.replace("\r\n", "\n").replace("\r", "\n"))
    ends = list(_THINK_CLOSE.finditer(text))
    return text[ends[-1].end() :] if ends else text


def _checks(text: str, principles: Sequence[Principle]) -> tuple[tuple[Check, ...], _Layout] | FailureKind:
    """One check per principle, in order, and the layout that they were found in; or what keeps them from being read."""
    body = _after_thinking(text)
    layout = _Layout.read(body)
    kind = _shape_failure(body, layout, len(principles)) or _checks_failure(layout, len(principles))
    if kind is not None:
        return kind
    answers = {block.number: block for block in layout.blocks}
    return tuple(_check(principle, answers[number]) for number, principle in enumerate(principles, start=1)), layout


def _shape_failure(body: str, layout: _Layout, count: int) -> FailureKind | None:
    """Failures of the text as a whole: empty, cut off, a copied template, more than one score."""
    if not body.strip():
        return "empty"
    opened, closed = len(SCORE_OPEN.findall(body)), len(SCORE_CLOSE.findall(body))
    if _THINK_OPEN.search(body) or (opened == 1 and closed == 0):
        return "truncated"
    if layout.template or any(_PLACEHOLDER.fullmatch(score) for score in layout.scores):
        return "echoed_template"
    if opened > 1 or closed > 1:
        return "several_scores"
    if opened == 0 and _stops_early(body, layout, count):
        return "truncated"
    return None


def _stops_early(body: str, layout: _Layout, count: int) -> bool:
    """Whether a text without a score ends inside a tag, inside a check, or after the first few of `count` checks."""
    if body.rfind("<") > body.rfind(">") or len(_AVERAGE_OPEN.findall(body)) > len(_AVERAGE_CLOSE.findall(body)):
        return True
    if not layout.blocks:
        return False
    numbers = [block.number for block in layout.blocks]
    last = layout.blocks[-1]
    if last.met is None:
        begun = re.split(ARROW, last.text)
        return len(begun) == 1 or begun[-1].strip().lower() in {"", "y", "ye", "n"}
    return numbers == list(range(1, len(numbers) + 1)) and len(numbers) < count


def _checks_failure(layout: _Layout, count: int) -> FailureKind | None:
    seen = Counter(block.number for block in layout.blocks)
    if any(not 1 <= number <= count for number in seen):
        return "unknown_principle"
    if any(times > 1 for times in seen.values()):
        return "duplicate_principle"
    if layout.stray_answer or any(block.met is None for block in layout.blocks):
        return "bad_answer"
    if len(seen) < count:
        return "missing_principle"
    return None


def _read_score(layout: _Layout) -> float | FailureKind:
    if len(layout.scores) != 1:
        return "no_score"
    match = _NUMBER.fullmatch(layout.scores[0])
    if match is None:
        return "not_a_number"
    score = float(match[1])
    return score + 0.0 if 0.0 <= score <= 10.0 else "score_out_of_range"


def _check(principle: Principle, block: _Block) -> Check:
    box: Box | None = None
    reason = block.reason
    for match in _BOX.finditer(block.reason):
        x1, y1, x2, y2 = (int(match[index]) for index in range(1, 5))
        if x1 <= x2 and y1 <= y2:
            box = (x1, y1, x2, y2)
            reason = reason.replace(match[0], " ")
    return Check(principle=principle, met=bool(block.met), reason=" ".join(reason.split()), box=box)
