"""How far each layer of a run moved from the layer of the source that it began as.

Axes: N positions of text, D features of a layer, E those of the source's layer, B rows
of a batch, T positions of a row.
"""

from collections.abc import Sequence
import math
from typing import Any

import jax
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen.adapters import wrap
from transfer_gen.distill import open_teacher
from transfer_gen.metrics import transferability
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import correspondence

_LEAST, _A_FEATURE, _MOST = 2048, 4, 8192  # Positions of which layers are compared.
_teacher = open_teacher.teacher_lib
_Source, _Prepared = _teacher.sources_lib.Source, _teacher.Prepared


def measure(
    rows: Sequence[correspondence.resolve.Row], source: _Source | None,
    trained: trained_lib.Trained, data: _Prepared) -> dict[str, Any]:
  """Compares the layers of a run with those of its source, on validation text.

  Where their tokens differ, the source reads the same text in its own tokens, and
  positions count at which both have read the same bytes.

  Args:
    rows: The plan of the run, leaf by leaf, which says what layers correspond.
    source: The source without a name; None if there is none.
    trained: The run.
    data: Its tokenized data.

  Returns:
    `layers`: for each compared layer `layer`, `source`, both counted from 0, and `cka`,
    see `transferability.cka`: 1 if it did not move; `mean` of them, or None; and
    `absent`, parts of sentences, which say why what is not compared is not.
  """
  model = trained.model.config
  if why := _apart(source, model, data):
    return {"layers": [], "mean": None, "absent": [why]}
  assert source is not None
  pairs, absent = correspondence.of_rows(rows, model.num_layers)
  found = []
  first, second = _states(source, trained, data, pairs) if pairs else ([], [])
  for (layer, other), theirs, own in zip(pairs.items(), first, second):
    value = _cka(theirs, own)
    if math.isfinite(value):
      found.append({"layer": layer, "source": other, "cka": value})
    else:
      absent[layer] = ("its states or the source's are all alike or no finite numbers,"
                       " or no position is common to both")
  mean = sum(one["cka"] for one in found) / len(found) if found else None
  return {"layers": found, "mean": mean, "absent": [*_grouped(absent)]}


def _apart(source: _Source | None, model: Any, data: _Prepared) -> str:
  """Returns why no layer can be compared, or ""."""
  heard = _teacher.taps.why_unheard
  if source is None:
    return "it has no source without a name"
  if source.model is None:
    return "nothing says which model the source is"
  if isinstance(source.model, config_lib.Encoder):
    return "the source sees the tokens after each one"
  registry = _teacher.registry
  if registry.is_drawn(model) or registry.is_drawn(source.model):
    return "layers are compared on text, and this is a model of drawings"
  if why := heard(model) or heard(source.model):
    return why
  if source.tokenizer is None:
    return "the source has no tokenizer"
  # As of a pair of two checkpoints, whose decoder has not learned to read the encoder.
  module = wrap.build(source.model, source.adapters)
  if lacking := sorted(registry.specs(module).keys() - source.specs.keys()):
    return f"the source has no {lacking[0]}, so its model computes nothing"
  encode = [registry.encodes(one) for one in (source.model, model)]
  if encode[0] != encode[1]:
    return "only one of both has an encoder"
  if any(encode) and not open_teacher.has_tokens(source, data):
    return "with an encoder, layers are compared on equal tokens only"
  return ""


def _grouped(absent):
  """Yields each reason once, with the layers that it holds for."""
  for why in dict.fromkeys(absent.values()):
    layers = sorted(layer for layer, other in absent.items() if other == why)
    yield f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}: {why}"


def _states(source, trained, data, pairs):
  """f32[N, E] of the source and f32[N, D] of the run, for each pair of layers."""
  module = wrap.build(source.model, source.adapters)
  own = _listener(trained.model, source, data, pairs.keys(), True)
  theirs = _listener(module, source, data, pairs.values(),
                     open_teacher.has_tokens(source, data)
                     and _fits(module, data.lengths[-1]))
  asked = ((theirs, jax.jit(theirs.tell), dict(source.read(list(source.specs)))),
           (own, jax.jit(own.tell), trained.params))
  widest = max(_teacher.taps.width(trained.run.model, layer) for layer in pairs)
  wanted = min(max(_LEAST, _A_FEATURE * widest), _MOST)
  parts, count = [], 0
  for batch in data.evaluation_batches("validation", trained.run.train.rows):
    batch = {key: value for key, value in batch.items() if key != "documents"}
    told = [tell(params, one.read(batch)) for one, tell, params in asked]
    counted = batch["weights"] > 0
    # Where tokens differ, not every position has read what some of the source's has.
    counted &= np.asarray(told[0].get(_teacher.READ, counted)) > 0
    parts.append([[np.asarray(one[f"teacher_hidden_{i}"])[counted]
                   for i in range(len(pairs))] for one in told])
    count += counted.sum()
    if count >= wanted:
      break
  return [[np.concatenate([part[side][i] for part in parts])[:wanted]
           for i in range(len(pairs))] for side in (0, 1)]


def _fits(module, length):
  """Whether a model reads rows of a length."""
  longest = _teacher.registry.longest(module)
  return longest is None or length <= longest


def _listener(module, source, data, layers, same):
  """What reports the outputs of some layers of a model at the positions of a batch."""
  return _teacher.Teacher(
      distill=config_lib.Distill(
          logits=0.0, vocabularies=_teacher.SAME if same else _teacher.ULD),
      module=module, source=source, tokenizer=source.tokenizer, student=data.tokenizer,
      hidden=tuple((layer, layer) for layer in layers), related=())


def _cka(first: np.ndarray, second: np.ndarray) -> float:
  """Returns the CKA; NaN if one of both does not vary."""
  if not len(first):
    return math.nan
  with np.errstate(divide="ignore", invalid="ignore"):
    return transferability.cka(first.astype(np.float64), second.astype(np.float64))
