"""Tests that biases which a config and a file disagree about are never guessed.

Transformers starts a bias that is asked for and not stored at zero, and leaves one out
that is stored and not asked for; both with a warning only.
"""

import json

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors
import transformers

from tests import transformers_models
from tests.comparing import distance
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.models import registry

SIZES = dict(vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
             num_key_value_heads=1, head_dim=4, intermediate_size=6,
             max_position_embeddings=16)
INPUTS = np.arange(10, dtype=np.int32).reshape(2, 5)
WIDTHS = {"self_attn.q_proj": 8, "self_attn.k_proj": 4, "self_attn.v_proj": 4,
          "self_attn.o_proj": 8, "mlp.gate_proj": 6, "mlp.up_proj": 6,
          "mlp.down_proj": 8}
STORED = {"none": (), "attention": tuple(WIDTHS)[:4], "inputs": tuple(WIDTHS)[:3],
          "mlp": tuple(WIDTHS)[4:]}
FLAGS = [{}, {"attention_bias": True}, {"mlp_bias": True}]
# Of each, what of `FLAGS` and `STORED` is taken. A field that its class does not look
# at changes nothing there: Qwen2 has its biases always, and Mistral never.
AGREE = {"Llama": {(0, "none"), (1, "attention"), (2, "mlp")},
         "Mistral": {(0, "none"), (1, "none"), (2, "none")},
         "Qwen2": {(0, "inputs"), (1, "inputs"), (2, "inputs")},
         "Qwen3": {(0, "none"), (1, "attention"), (2, "none")},
         "Gemma": {(0, "none")}, "Gemma3": {(0, "none")}}


@pytest.fixture(scope="module")
def _saved(tmp_path_factory):
  """The config and the tensors of a model of each kind, without biases."""
  found = {}
  for kind in AGREE:
    folder = tmp_path_factory.mktemp(kind)
    transformers_models.decoder(kind, SIZES).save_pretrained(folder)
    fields = json.loads((folder / "config.json").read_text())
    arrays = safetensors.load_file(folder / "model.safetensors")
    found[kind] = (
        {name: value for name, value in fields.items() if name[-5:] != "_bias"},
        {name: value for name, value in arrays.items() if name[-5:] != ".bias"})
  return found


def _write(folder, fields, arrays, stored):
  generator = np.random.default_rng(0)
  folder.mkdir(exist_ok=True)
  (folder / "config.json").write_text(json.dumps(fields))
  safetensors.save_file(arrays | {
      f"model.layers.0.{part}.bias": generator.normal(
          size=WIDTHS[part]).astype(np.float32) for part in stored},
      folder / "model.safetensors", metadata={"format": "pt"})


def _near_those_of_transformers(folder, source):
  params = tree.unflatten(dict(source.read(list(source.specs))))
  ours = jax.jit(registry.build(source.model).apply)({"params": params}, INPUTS)
  theirs = transformers_models.logits(
      transformers.AutoModelForCausalLM.from_pretrained(folder), INPUTS)
  return distance(np.asarray(ours), theirs) < 1e-5


@pytest.mark.parametrize("kind", AGREE)
def test_biases_are_read_as_transformers_does_or_refused(_saved, tmp_path, kind):
  fields, arrays = _saved[kind]
  taken = set()

  for number, flags in enumerate(FLAGS):
    for name, stored in STORED.items():
      folder = tmp_path / f"{number}{name}"
      _write(folder, fields | flags, arrays, stored)
      try:
        source = sources.open(folder)
      except errors.UserError as error:
        # The message names what disagrees: a field, or the leaves.
        assert "bias" in str(error)
      else:
        taken.add((number, name))
        assert _near_those_of_transformers(folder, source), (flags, name)

  assert taken == AGREE[kind]


def test_stored_biases_that_the_config_lacks_can_be_left_out(_saved, tmp_path):
  fields, arrays = _saved["Llama"]
  _write(tmp_path, fields, arrays, WIDTHS)

  source = sources.open(tmp_path, unused=(r".*\.bias",))

  assert not source.model.bias
  assert _near_those_of_transformers(tmp_path, source)
