"""Metrics as numbers for a file and as lines for a reader."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from transfer_gen.metrics import bootstrap
from transfer_gen.metrics import measured as measured_lib
from transfer_gen.metrics import measures

Measured = measured_lib.Measured


def numbers(found: Mapping[str, Measured]) -> dict[str, Any]:
  """Returns scores by name, `intervals` (low and high) and `signatures`, for JSON.

  A metric that had nothing to count, such as repetition in texts of three words, has
  the score None and no interval. A single document gives no interval either.
  """
  # JSON has no NaN: what Python writes for it, many readers refuse.
  scores = {name: one.score() for name, one in found.items()}
  return {
      **{name: None if math.isnan(score) else score for name, score in scores.items()},
      "intervals": {name: bootstrap.interval(one) for name, one in found.items()
                    if not math.isnan(scores[name]) and len(one.statistics) > 1},
      "signatures": {name: one.signature for name, one in found.items()
                     if one.signature}}


def table(facts: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, ...]]:
  """Returns the rows of a table of metrics, with a header.

  Args:
    facts: As `numbers` returns them.
    names: The metrics to show.
  """
  rows: list[tuple[str, ...]] = [("metric", "score", "95% interval")]
  for name in names:
    interval = facts["intervals"].get(name)
    rows.append((
        name, "-" if facts[name] is None else measures.shown(name, facts[name]),
        _between(name, interval) if interval else "-"))
  return rows


def differences(
    pairs: Mapping[str, tuple[Measured, Measured]]) -> dict[str, dict[str, Any]]:
  """Tests each metric of a run against that of another, see `bootstrap.compare`."""
  # A side that counted nothing has no score, and so there is no difference to test.
  return {name: bootstrap.compare(*pair) for name, pair in pairs.items()
          if not any(math.isnan(one.score()) for one in pair)}


def differences_table(
    found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
  """Returns the rows of a table of what `differences` found, with a header."""
  rows: list[tuple[str, ...]] = [
      ("metric", "difference", "95% interval", "p (bootstrap)", "p (randomization)",
       "")]
  for name, one in found.items():
    rows.append((
        name, f"{'+' if one['difference'] > 0 else ''}"
        f"{measures.shown(name, one['difference'])}",
        _between(name, (one["low"], one["high"])), f"{one['p_bootstrap']:.4f}",
        f"{one['p_randomization']:.4f}", verdict(one, one["better"])))
  return rows


def verdict(found: Mapping[str, Any], better: bool) -> str:
  """Returns whether a difference with an interval is one, and which.

  Only an interval without 0 is called a difference. Where nothing varies, as with a
  single document, there is no interval.

  Args:
    found: `low` and `high` of the interval.
    better: Whether the difference is for the better.
  """
  if found["low"] == found["high"] or found["low"] <= 0 <= found["high"]:
    return "no clear difference"
  return "better" if better else "worse"


def _between(name: str, interval: Sequence[float]) -> str:
  return " to ".join(measures.shown(name, bound) for bound in interval)
