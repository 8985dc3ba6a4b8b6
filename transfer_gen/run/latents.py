"""Texts out of latents: drawn from the prior, or between two texts.

Axes: N texts, Z latent.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from transfer_gen import errors
from transfer_gen.generate import bulk
from transfer_gen.generate import prefill
from transfer_gen.models import latent as latent_lib
from transfer_gen.models import registry
from transfer_gen.run import decode


def sample(
    model: decode.TextModel, count: int, decoding: decode.Decoding, **how: Any
) -> list[str]:
  """Writes texts for latents that are drawn from the prior N(0, I).

  A text depends on the seed and its number, and neither on how many there are nor on
  batches and devices.

  Args:
    model: The model.
    count: N.
    decoding: How texts are written; `seed` decides the latents, too. `num` is not read.
    **how: Further arguments of `generate.bulk.write`.

  Raises:
    errors.UserError: If the model has no latent, or one without a prior.
  """
  width = _width(model, "samples from the prior")
  if not model.model.draws:
    raise errors.UserError(
        "The model is an autoencoder without a prior (model.variational=False): its"
        " latents come from texts alone. Give --prompt, or two with --interpolate.")
  latents = latent_lib.prior(jax.random.key(decoding.seed), count, width)
  return _written(model, np.asarray(latents), decoding, how)


def interpolate(
    model: decode.TextModel, ends: tuple[str, str], count: int,
    decoding: decode.Decoding, **how: Any) -> list[str]:
  """Writes texts for latents on the straight line between those of two texts.

  Args:
    model: The model.
    ends: The two texts. What is written for the first and last latent restores them.
    count: N, at least 2, both ends included; latents stand at even distances.
    decoding: How texts are written; `num` is not read.
    **how: Further arguments of `generate.bulk.write`.

  Raises:
    errors.UserError: If the model has no latent, or a text cannot be read.
  """
  _width(model, "goes from one text to another")
  first, second = np.asarray(_means(model, ends))
  shares = np.linspace(0, 1, count)[:, None]
  return _written(model, (1 - shares) * first + shares * second, decoding, how)


def _width(model: decode.TextModel, does: str) -> int:
  width = getattr(model.model, "latent_width", 0)
  if not width:
    raise errors.UserError(
        f"The model has no latent, and only one with a latent {does}. Set"
        " model.latent_width in the config of a model with an encoder, and train it.")
  return width


def _means(model: decode.TextModel, texts: Sequence[str]) -> jax.Array:
  """Returns the latents of texts, f32[N, Z], without noise."""
  read, prompts = model.encoding.encoder_prompts(texts)
  prefill.raise_misfits(prefill.find_misfits(
      model.module, prompts, read, [0] * len(texts)))
  tokens, counts = prefill.pad(read, registry.longest_input(model.module))
  found: Any = model.module.apply(
      {"params": prefill.nest_params(model.params)}, tokens, counts, method="posterior")
  return found.astype(np.float32)


def _written(model, latents, decoding, how) -> list[str]:
  decoding = dataclasses.replace(decode.resolved(model, decoding), num=1)
  count, longest = len(latents), registry.longest(model.module)
  _, prompts = model.encoding.encoder_prompts([""] * count, strict=False)
  budget = decoding.max_tokens if longest is None else min(
      decoding.max_tokens, longest - 1)
  inputs = bulk.Inputs(
      prompts=prompts, encoder_inputs=None, budgets=[budget] * count, latents=latents)
  found = dict(decode.written(model, inputs, decoding, **how))
  return [found[i][0] for i in range(count)]
