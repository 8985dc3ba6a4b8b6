"""Texts in, texts out: lets a model answer or continue any number of inputs."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax

from transfer_gen import config as config_lib
from transfer_gen.data import pipeline
from transfer_gen.generate import beam
from transfer_gen.generate import sampling
from transfer_gen.models import registry

_DEFAULT_LENGTH = 64  # New tokens of a language model, if `max_tokens` is 0.
_BATCH = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextModel:
  """A model with all that is needed to read and write texts with it.

  Attributes:
    module: The module, with its adapters.
    params: Its params, flat by name or nested.
    tokenizer: Tokenizer of its ids.
    data: How the texts of its training were cleaned and laid out.
    model: Its config.
  """
  module: registry.Model
  params: Mapping[str, Any]
  tokenizer: pipeline.tokenizers.Tokenizer
  data: config_lib.Data
  model: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
  """What a model wrote.

  Attributes:
    texts: For each input, in order, `Decoding.num` texts, the best first in a beam
      search, which may find fewer; [""] for an input that was too long.
    too_long: Indices of the inputs that were longer than the model can read, and that
      were reported or cut as `Decoding.too_long` says.
  """
  texts: list[list[str]]
  too_long: list[int]


def answers(
    model: TextModel, inputs: Sequence[str], decoding: config_lib.Decoding, *,
    parallel: config_lib.Parallel | None = None, batch_size: int = _BATCH,
    progress: str = "",
) -> Answers:
  """Lets a model answer inputs, or if it was not trained on pairs, continue them.

  Args:
    model: The model.
    inputs: Any number of texts, in any order; they may be empty.
    decoding: How texts are written.
    parallel: How the work is divided over devices. If None, the default device does
      all of it.
    batch_size: Number of rows that are decoded at a time, before they are divided over
      devices.
    progress: What a progress bar on stderr counts, such as "input"; no bar if empty, or
      if stderr is no terminal.

  Returns:
    The texts, in the order of the inputs. They depend neither on `batch_size` nor on
    the other inputs, except that equal inputs get different samples.

  Raises:
    errors.UserError: If a field of `decoding` is out of range, or an input has
      characters without a token.
  """
  del parallel, progress
  limit = decoding.max_tokens or (
      model.data.length if registry.encodes(model.model) else _DEFAULT_LENGTH)
  texts: list[list[str]] = []
  for start in range(0, len(inputs), batch_size):
    texts += _decoded(model, inputs[start:start + batch_size], decoding, limit)
  return Answers(texts=texts, too_long=[])


def _decoded(model, inputs, decoding, limit) -> list[list[str]]:
  eos = pipeline.roles(model.tokenizer).get("eos")
  if registry.encodes(model.model):
    encoder_inputs, prompts = pipeline.tokenize_for_encoder(
        inputs, model.tokenizer, model.data, model.model)
    rows = {"encoder_inputs": encoder_inputs, "prompts": prompts}
  else:
    rows = {"prompts": pipeline.encode_prompts(inputs, model.tokenizer, model.data)}
  if decoding.beams > 1:
    found = [[one.tokens for one in row[:decoding.num]] for row in beam.search(
        model.module, model.params, beams=decoding.beams, num_tokens=limit, eos=eos,
        length_penalty=decoding.length_penalty, **rows)]
  else:
    rows = {name: [row for row in value for _ in range(decoding.num)]
            for name, value in rows.items()}
    drawn = sampling.generate(
        model.module, model.params, num_tokens=limit, eos=eos,
        temperature=decoding.temperature, top_k=decoding.top_k, top_p=decoding.top_p,
        key=jax.random.key(decoding.seed), **rows)
    found = [drawn[i:i + decoding.num] for i in range(0, len(drawn), decoding.num)]
  return [[model.tokenizer.decode(tokens) for tokens in row] for row in found]
