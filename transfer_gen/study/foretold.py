"""Whether measures before training foretold the gains that came."""

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import Any

from transfer_gen.metrics import transferability

MEASURES = ("before", "overlap", "alignment", "logme")
LEAST = 4  # Pairs. Fewer have no interval.
BITS, NATS = "bits per byte", "nats per step"  # Of texts; of drawings.
Facts = Mapping[str, Any]  # What `comparison.compare` returns, and `transfer`.


def known(pair: Facts) -> dict[str, float]:
  """Returns the measures before training of a pair's treated run that are known.

  Of each, the higher is the better: `before`, the loss before any step, has its sign
  changed.
  """
  found = (pair.get("transfer") or {}).get("before") or {}
  loss = found.get("before", {}).get("across_tokens")
  values = {"before": None if loss is None else -loss, **{
      key: found.get(key) for key in MEASURES[1:]}}
  return {key: value for key, value in values.items()
          if value is not None and math.isfinite(value)}


def gain(pair: Facts, gains_in: str) -> float | None:
  """Returns the gain of a pair in a unit, `BITS` or `NATS`; None if it has none."""
  found = pair if gains_in == NATS else pair.get("bits_per_byte")
  return found["gain"] if found and math.isfinite(found["gain"]) else None


def unit(pairs: Iterable[Facts]) -> str:
  """Returns the unit in which gains of pairs compare: `BITS` if some are of texts."""
  return BITS if any("bits_per_byte" in pair for pair in pairs) else NATS


def equal(pairs: Sequence[Facts]) -> list[Facts]:
  """Returns the pairs whose control has no more steps than the treated run.

  A gain over more steps speaks of the steps, too, which no measure foretells.
  """
  return [pair for pair in pairs if not pair.get("longer_control")]


def correlate(pairs: Sequence[Facts]) -> dict[str, Any]:
  """Correlates measures before training with the gains.

  Args:
    pairs: The pairs. Those count whose treated run was measured, whose gain is known in
      the common unit, and whose control has no more steps.

  Returns:
    `unit` of the gains; `pairs`, the number of those that count; and for each of
    `measures` what `transferability.rank_correlation` returns, or `absent`, a part of a
    sentence.
  """
  gains_in, pairs = unit(pairs), equal(pairs)
  measured = [(found, value) for pair in pairs if (found := known(pair))
              and (value := gain(pair, gains_in)) is not None]
  return {"unit": gains_in, "pairs": len(measured), "measures": {
      key: _correlation([(found[key], value) for found, value in measured
                         if key in found]) for key in MEASURES}}


def _correlation(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
  if len(points) < LEAST:
    return {"absent": f"known of {len(points)} pair{'s' * (len(points) != 1)}, and"
            f" {LEAST} are needed"}
  for what, values in zip(("value", "gain"), zip(*points)):
    if len({*values}) == 1:
      return {"absent": f"all pairs have the same {what}"}
  return transferability.rank_correlation(*zip(*points))
