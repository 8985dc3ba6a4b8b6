"""What a target has of a source before training: shares of its text and its params."""

import numpy as np

from transfer_gen.metrics import transferability
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import vocabulary


def of_text(assembled: assembled_lib.Assembled) -> float | None:
  """Returns the share of the target's training text whose tokens the source knows.

  Tokens match as those of a transfer do. Where inputs have a tokenizer of their own,
  both sides count.

  Returns:
    From 0 to 1; None if no source called "" has a vocabulary, or the data are no text.
  """
  vocabularies = assembled.inputs.vocabularies()
  source, target = vocabularies.get(""), vocabularies[vocabulary.TARGET]
  if source is None:
    return None
  sides = [(source, target)]
  if target.encoder is not None:
    sides.append((source.encoder or source, target.encoder))
  matched = np.concatenate([vocabulary.match(*side) >= 0 for side in sides])
  counts = np.concatenate([
      assembled.data.token_counts, assembled.data.encoder_token_counts][:len(sides)])
  if not counts.sum():  # Drawings have no tokens.
    return None
  return transferability.vocabulary_overlap(matched, counts)


def of_params(assembled: assembled_lib.Assembled) -> float:
  """Returns the share of the target's params that come from a source, from 0 to 1."""
  return audit_lib.coverage(audit_lib.summarize(
      assembled.plan, assembled.rows, assembled.source_specs, assembled.constants))
