"""What is measured of a run before its first step, to compare sources."""

from collections.abc import Callable, Mapping
import math
from typing import Any

from transfer_gen.run import initial
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import probe
from transfer_gen.study import shares
from transfer_gen.study import source_texts

Assembled, Scores = initial.assemble.Assembled, trained_lib.evaluate.Scores
TITLES = {"before": "step 0", "overlap": "overlap", "alignment": "alignment",
          "logme": "LogME"}  # Of the measures, for people.
# Takes what is looked for, for people; a function that finds it; and what to return if
# that fails.
Attempt = Callable[[str, Callable[[], Any], Any], Any]
_FAILED = "it failed"


def measure(
    assembled: Assembled, reader: trained_lib.Reader,
    attempt: Attempt = lambda what, find, otherwise: find(),
) -> dict[str, Any]:
  """Measures a run as transferred, before any step.

  Args:
    assembled: The run.
    reader: Has read its texts; reads those of its source.
    attempt: Finds one measure; what it does of a failure is its own.

  Returns:
    `before`, see `losses`; `unit` in which runs compare; `overlap` (share of the
    training text in tokens that the source knows), `alignment` (cosine of the gradients
    on the source's text and on the target's), `logme`, and `copied` (share of the
    params that come from a source). Where one cannot be known it is None, or its loss
    is, and `absent` says why, by its name, as part of a sentence.
  """
  params, copied = initial.params(assembled), shares.of_params(assembled)
  scores = trained_lib.scorer(assembled.model)(
      params, assembled.data, "validation", assembled.run.train.rows)
  found: dict[str, Any] = {
      "before": losses(scores), "copied": copied,
      "unit": "bits per byte" if scores.of_text else "nats per step"}
  absent = {} if found["before"]["across_tokens"] is not None else {
      "before": "it is no finite number"}
  untold = "" if scores.of_text else "the data are no text"
  unread = untold or ("" if copied else "no param comes from a source")
  for key, why, find in (
      ("overlap", unread, lambda: (
          shares.of_text(assembled), "the source has no known vocabulary")),
      ("alignment", unread, lambda: source_texts.alignment(assembled, params, reader)),
      ("logme", untold, lambda: probe.logme(assembled, params))):
    found[key], reason = (None, why) if why else attempt(
        TITLES[key], find, (None, _FAILED))
    if found[key] is None:
      absent[key] = reason
  return found | {"absent": absent}


def unknown(absent: Mapping[str, str]) -> list[str]:
  """Returns which measures are not known, and why, as parts of sentences.

  Args:
    absent: As `measure` returns it.
  """
  titles: dict[str, list[str]] = {}
  for key, why in absent.items():
    titles.setdefault(why, []).append(TITLES[key])
  return [f"no {', '.join(names)}: {why}" for why, names in titles.items()]


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
