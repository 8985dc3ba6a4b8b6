"""Tests of tables that checkpoints store under several names, against Transformers."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors import torch as safetensors
import torch
import transformers

from tests import transformers_models
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.models import registry

V = 37
GPT2 = ("GPT2", dict(vocab_size=V, n_positions=16, n_embd=8, n_layer=1, n_head=2))
LLAMA = ("Llama", dict(
    vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=28, max_position_embeddings=16, tie_word_embeddings=True))
NEOX = ("GPTNeoX", dict(
    vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=28, max_position_embeddings=16, tie_word_embeddings=True))
INPUTS = np.random.default_rng(0).integers(0, V, (2, 7)).astype(np.int32)


def change(folder, how):
  """Rewrites the tensors of a folder."""
  tensors = safetensors.load_file(folder / "model.safetensors")
  how(tensors)
  safetensors.save_file(
      {name: x.contiguous().clone() for name, x in tensors.items()},
      folder / "model.safetensors", metadata={"format": "pt"})


def ours(folder):
  source = sources.open(folder)
  params = dict(source.read(list(source.specs)))
  module = registry.build(source.model)
  return np.asarray(jax.jit(module.apply)({"params": tree.unflatten(params)}, INPUTS))


@pytest.mark.parametrize("case, table, output", [
    (GPT2, "transformer.wte.weight", "lm_head.weight"),
    (LLAMA, "model.embed_tokens.weight", "lm_head.weight"),
    (NEOX, "gpt_neox.embed_in.weight", "embed_out.weight")], ids=lambda case: case[0])
@pytest.mark.parametrize("form", ["alone", "equal", "other"])
def test_a_tied_table_may_be_stored_as_the_output(tmp_path, case, table, output, form):
  model = transformers_models.decoder(*case)
  model.save_pretrained(tmp_path)
  change(tmp_path, lambda x: x.update({
      "alone": lambda: {output: x.pop(table)}, "equal": lambda: {output: x[table]},
      "other": lambda: {output: x[table] + 1}}[form]()))

  if form == "other":
    with pytest.raises(errors.UserError, match=f"{table} and {output} are one table"):
      ours(tmp_path)
    return
  np.testing.assert_allclose(
      ours(tmp_path), transformers_models.logits(model, INPUTS), rtol=1e-4, atol=1e-4)


def test_a_table_of_t5s_decoder_that_differs_is_refused(tmp_path):
  model = transformers.T5ForConditionalGeneration(transformers.T5Config(
      vocab_size=V, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
      tie_word_embeddings=False, decoder_start_token_id=0))
  model.save_pretrained(tmp_path)
  change(tmp_path, lambda x: x.update({
      "decoder.embed_tokens.weight": torch.ones_like(x["shared.weight"])}))
  source = sources.open(tmp_path)

  with pytest.raises(errors.UserError, match="decoder.embed_tokens.weight are one"):
    list(source.read(list(source.specs)))
  # Nothing else of the checkpoint is concerned.
  others = [name for name in source.specs if name != "embed/embedding"]
  assert [name for name, _ in source.read(others)]


def test_an_index_may_name_the_second_name_of_a_tied_table(tmp_path):
  model = transformers_models.decoder(*LLAMA)
  model.save_pretrained(tmp_path, max_shard_size="4KB")
  path = tmp_path / "model.safetensors.index.json"
  index = json.loads(path.read_text())
  index["weight_map"]["lm_head.weight"] = max(index["weight_map"].values())
  path.write_text(json.dumps(index))

  np.testing.assert_allclose(
      ours(tmp_path), transformers_models.logits(model, INPUTS), rtol=1e-4, atol=1e-4)
  # One that is no second name of anything is missed.
  place = tmp_path / index["weight_map"]["model.norm.weight"]
  tensors = safetensors.load_file(place)
  del tensors["model.norm.weight"]
  safetensors.save_file(tensors, place)
  with pytest.raises(errors.UserError, match="model.norm.weight, which is not in"):
    ours(tmp_path)


def test_a_whole_file_wins_over_an_index_that_was_left_behind(tmp_path):
  transformers_models.decoder(*LLAMA, seed=1).save_pretrained(
      tmp_path, max_shard_size="4KB")
  model = transformers_models.decoder(*LLAMA, seed=2)
  model.save_pretrained(tmp_path / "new")
  shutil.move(tmp_path / "new" / "model.safetensors", tmp_path)

  peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
  np.testing.assert_allclose(
      transformers_models.logits(peer, INPUTS), transformers_models.logits(
          model, INPUTS), rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(
      ours(tmp_path), transformers_models.logits(model, INPUTS), rtol=1e-4, atol=1e-4)
