"""What is measured of a run before its first step, to compare sources."""

import math
from typing import Any

from transfer_gen.run import initial
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import probe
from transfer_gen.study import shares
from transfer_gen.study import source_texts

Assembled, Scores = initial.assemble.Assembled, trained_lib.evaluate.Scores


def measure(
    assembled: Assembled, reader: trained_lib.Reader) -> dict[str, Any]:
  """Measures a run as transferred, before any step.

  Args:
    assembled: The run.
    reader: Has read its texts; reads those of its source.

  Returns:
    `before`, see `losses`; `unit` in which runs compare; `overlap` (share of the
    training text in tokens that the source knows), `alignment` (cosine of the gradients
    on the source's text and on the target's), `logme`, and `copied` (share of the
    params that come from a source), each None where it cannot be known; and `notes`,
    which say why.
  """
  params = initial.params(assembled)
  scores = trained_lib.scorer(assembled.model)(
      params, assembled.data, "validation", assembled.run.train.rows)
  copied, (aligned, notes) = shares.of_params(assembled), (None, [])
  if scores.of_text and assembled.sources and copied:
    aligned, notes = source_texts.alignment(assembled, params, reader)
  return {
      "before": losses(scores),
      "unit": "bits per byte" if scores.of_text else "nats per token",
      "overlap": shares.of_text(assembled) if copied else None,
      "alignment": aligned,
      "logme": probe.logme(assembled, params) if scores.of_text else None,
      "copied": copied, "notes": notes}


def losses(scores: Scores | None) -> dict[str, Any]:
  """Returns what is kept of a validation.

  Args:
    scores: The validation; None if the run diverged.

  Returns:
    `loss`, in nats per token; `across_tokens`, by which runs are compared, in bits per
    byte, or of drawings the same as `loss`; both None if they are not finite; and
    `documents`, the number of those that were scored.
  """
  if scores is None:
    return {"loss": None, "across_tokens": None, "documents": 0}
  found = scores.metrics()
  known = lambda value: value if math.isfinite(value) else None
  return {"loss": known(found["loss"]), "across_tokens": known(scores.across_tokens),
          "documents": found["documents"]}
