"""Where editor GRPO takes its tasks from, and what the oracle says of edits that the built-in world can judge.

The oracle's numbers are metrics. They never reach a reward.
"""

from __future__ import annotations


