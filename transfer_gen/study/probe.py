"""LogME of a model's hidden states on its target's text, without training.

Axes: B batch, T position, D width of the last layer, N positions, V tokens.
"""

from collections.abc import Mapping
import functools
import math

import jax
import numpy as np

from transfer_gen.metrics import transferability
from transfer_gen.models import beginnings
from transfer_gen.models import registry
from transfer_gen.models import taps
from transfer_gen.run import assembled as assembled_lib

_SPECIAL = 256  # The class of tokens that stand for no text.
# Positions: LogME needs more of them than features, and what it costs grows with D ** 2
# for each.
_LEAST, _A_FEATURE, _NEEDED = 2048, 4, 2


def logme(
    assembled: assembled_lib.Assembled, params: Mapping[str, jax.Array]
) -> tuple[float | None, str]:
  """Returns how well frozen hidden states tell what comes next in the target's text.

  Features are the outputs of the last layer at positions of the training split. The
  label of each is the first byte of the token that follows. It stands for the next
  token itself, which may be one of 100,000, most of them too rare for a regression: of
  bytes there are 256, they mean the same in every tokenizer, and who knows the next
  token knows its first byte.

  Args:
    assembled: The run.
    params: Its params before the first step.

  Returns:
    LogME, see `transferability.logme`, and ""; or None and a part of a sentence: if the
    model has no such states, the text has fewer than two positions a feature, or labels
    of one class, or if some hidden state is not finite.
  """
  if registry.is_drawn(assembled.run.model):
    return None, "a model of drawings reads no text"
  if why := taps.why_unheard(assembled.run.model):
    return None, why
  width = taps.width(assembled.run.model, assembled.run.model.num_layers - 1)
  wanted = max(_LEAST, _A_FEATURE * width)
  count = min(wanted, assembled.data.facts["splits"]["train"]["tokens"])
  if count < _NEEDED * width:
    return None, (f"the training text has {count:,} positions, and {width:,} features"
                  f" need {_NEEDED * width:,}")
  features, labels = _positions(assembled, params, count)
  if not np.isfinite(features).all() or not features.any():
    return None, "hidden states are zero or no finite numbers"
  if len(np.unique(labels)) < 2:
    return None, "every token begins with the same byte"
  found = transferability.logme(features, labels)
  return (found, "") if math.isfinite(found) else (None, "it is no finite number")


def _positions(assembled, params, count):
  """f32[N, D] and i64[N] of the first positions of the training batches."""
  run, data = assembled.run, assembled.data
  hidden = _hidden(assembled.model, run.model.num_layers)
  first = np.array([token[0] if token else _SPECIAL for token in data.tokenizer.tokens])
  features, labels = [], []
  for batch in data.train_batches(run.train.rows, run.seed):
    counted = batch["weights"] > 0  # bool[B, T].
    found = hidden(params, batch)[beginnings.HIDDEN]
    features.append(np.asarray(found, np.float32)[counted])
    labels.append(first[batch["targets"][counted]])
    if sum(map(len, labels)) >= count:
      break
  return np.concatenate(features)[:count], np.concatenate(labels)[:count]


@functools.lru_cache(maxsize=8)  # Runs of one model, with other sources, compile once.
def _hidden(model, layers):
  return jax.jit(functools.partial(beginnings.Layers(layers).outputs, model))
