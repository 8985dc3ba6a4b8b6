"""Tests for adapters beside the kernels of a model of drawings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.adapters import merge
from transfer_gen.adapters import wrap
from transfer_gen.models import outputs
from transfer_gen.models import registry

MODEL = config.Sketch(
    vocab_size=3, hidden_width=6, encoder_width=5, latent_width=4, mixtures=2)
ALL = (config.LoRA(params=".*", rank=2), config.LoRA(
    params=".*kernel_mixture.*|decoder/.*", rank=1, name="more", scaling="rslora"))
_generator = np.random.default_rng(0)
BATCH = {
    "inputs": _generator.integers(0, 3, (2, 5)).astype(np.int32),
    "values": _generator.normal(size=(2, 5, 2)).astype(np.float32),
    "pen_states": np.array([[0, 1, 0, 2, 2], [1, 0, 0, 0, 1]], np.int32)}


def _computed(module, params):
  pen, state = module.apply(
      {"params": tree.unflatten(params)}, BATCH["inputs"],
      values=BATCH["values"], pen_states=BATCH["pen_states"],
      mutable=[outputs.COLLECTION])
  return {"pen": pen, **outputs.given(state)}


def _moved(module):
  generator = np.random.default_rng(1)
  return {name: 0.3 * generator.normal(size=spec.shape).astype(np.float32)
          for name, spec in registry.specs(module).items()}


def test_low_rank_beside_every_kernel_of_drawings_equals_merged_kernels():
  module = wrap.build(MODEL, ALL)
  params, own = _moved(module), registry.specs(registry.build(MODEL))
  kernels = [name for name in own if "kernel" in name]

  found = jax.jit(lambda params: _computed(module, params))(params)
  merged = merge.merge(params, ALL, own)

  assert sum("lora_b" in name for name in params) == len(kernels) == 20
  assert merged.keys() == own.keys()
  with jax.numpy_rank_promotion("raise"):
    wanted = _computed(registry.build(MODEL), merged)
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, atol=2e-5, err_msg=name)
  plain = _computed(registry.build(MODEL), {name: params[name] for name in own})
  for name, value in plain.items():
    assert np.abs(value - found[name]).max() > 1e-2, name


def test_every_factor_beside_a_kernel_of_drawings_has_a_gradient():
  module = wrap.build(MODEL, ALL)
  params = _moved(module)

  grads = jax.jit(jax.grad(lambda params: sum(
      jnp.square(value).sum() for value in _computed(module, params).values())))(params)

  assert not [name for name, value in grads.items()
              if "lora" in name and not np.abs(value).max() > 1e-6]


def test_fresh_adapters_leave_what_is_drawn_as_it_is():
  module = wrap.build(MODEL, ALL)
  params = registry.fresh(module, jax.random.key(0))(registry.specs(module))
  own = {name: params[name] for name in registry.specs(registry.build(MODEL))}

  found, plain = _computed(module, params), _computed(registry.build(MODEL), own)

  for name, value in plain.items():
    np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("adapter, message", [
    (config.LoRA(params="head/.*", dora=True), "head/.* is one of several"),
    (config.Bottleneck(params="decoder/.*", width=2), "decoder/.* is one of several"),
    (config.Prefix(params="start/.*", length=2), "is no kernel of keys"),
    (config.LoRA(params="layer_0/.*kernel"), "matches no kernel"),
], ids=range(4))
def test_adapters_without_a_place_in_a_model_of_drawings_are_refused(adapter, message):
  with pytest.raises(errors.UserError, match=message):
    registry.specs(wrap.build(MODEL, (adapter,)))
