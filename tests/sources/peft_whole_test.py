"""Tests for PEFT adapters that bring whole tensors: the same logits as PEFT's own."""

import dataclasses
import json

import numpy as np
import peft as peft_lib
import pytest
from safetensors import numpy as safetensors
import torch
import transformers

from tests import transformers_models
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.adapters import wrap as adapters_lib
from transfer_gen.models import registry

V = 29
INPUTS = np.random.default_rng(0).integers(0, V, (2, 9)).astype(np.int32)
LLAMA = ("Llama", dict(
    vocab_size=V, hidden_size=12, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, max_position_embeddings=16))
BASES = {
    "untied": LLAMA,
    "tied": ("Llama", LLAMA[1] | {"tie_word_embeddings": True}),
    "gpt2": ("GPT2", dict(
        vocab_size=V, n_positions=16, n_embd=12, n_layer=1, n_head=2)),
}
QUERY = {"untied": "q_proj", "tied": "q_proj", "gpt2": "c_attn"}


@pytest.fixture(scope="module", name="bases")
def _bases(tmp_path_factory):
  """Saves a model of Transformers by name, and returns their folders."""
  found = {name: tmp_path_factory.mktemp(name) for name in BASES}
  for name, (kind, fields) in BASES.items():
    transformers_models.decoder(kind, fields).save_pretrained(found[name])
  return found


def _trained(base, folder, name, **fields):
  """Saves an adapter whose tensors all have noise, and returns PEFT's model."""
  also = fields.pop("also", ())
  made = peft_lib.LoraConfig(
      r=2, lora_alpha=5, target_modules=[QUERY[name], *also], task_type="CAUSAL_LM",
      fan_in_fan_out=name == "gpt2", init_lora_weights=False, **fields)
  model = peft_lib.get_peft_model(
      transformers.AutoModelForCausalLM.from_pretrained(base), made)
  generator = torch.Generator().manual_seed(1)
  with torch.no_grad():
    for param in model.parameters():
      if param.requires_grad:
        param += 0.3 * torch.randn(param.shape, generator=generator)
  model.save_pretrained(folder)
  # As others load it, and not the model that was trained.
  return peft_lib.PeftModel.from_pretrained(
      transformers.AutoModelForCausalLM.from_pretrained(base), folder).eval()


def _opened(base, folder):
  source = sources.open(base)
  return source, sources.open(folder, model=source.model, base=source)


def _ours(source, stored):
  """Logits of the base with all that an adapter brings."""
  kernels = {name.rpartition("/")[0] + "/kernel"
             for name in stored.specs if "lora_" in name}
  adapter = config.LoRA(params="|".join(sorted(kernels)), rank=2, alpha=5.0)
  model = source.model
  if "head/kernel" in stored.specs:
    model = dataclasses.replace(model, tied=False)
  params = dict(source.read(list(source.specs))) | dict(stored.read(list(stored.specs)))
  module = adapters_lib.wrap(registry.build(model), (adapter,))
  return np.asarray(module.apply({"params": tree.unflatten(params)}, INPUTS))


CASES = {
    "head": ("untied", dict(modules_to_save=["lm_head"]), {"head/kernel"}),
    "both": ("untied", dict(modules_to_save=["lm_head", "embed_tokens"]),
             {"head/kernel", "embed/embedding"}),
    "head_of_tied": ("tied", dict(modules_to_save=["lm_head"]), {"head/kernel"}),
    "inputs_of_tied": ("tied", dict(modules_to_save=["embed_tokens"]),
                       {"head/kernel", "embed/embedding"}),
    "kept_tied": ("tied", dict(
        modules_to_save=["embed_tokens"], ensure_weight_tying=True),
                  {"embed/embedding"}),
    "wte": ("gpt2", dict(modules_to_save=["wte"]), {"head/kernel", "embed/embedding"}),
    "parts_of_layers": ("gpt2", dict(modules_to_save=["c_fc", "ln_f", "wpe"]), {
        "layer_0/mlp/up/bias", "layer_0/mlp/up/kernel", "final_norm/scale",
        "final_norm/bias", "position/embedding"}),
    "biases": ("gpt2", dict(bias="lora_only"), {
        f"layer_0/attn/{name}/bias" for name in ("query", "key", "value")}),
    "factors_of_head": ("untied", dict(also=["lm_head"]), {"head/kernel"}),
    "factors_of_table": ("untied", dict(also=["embed_tokens"]), {"embed/embedding"}),
    "rows": ("untied", dict(trainable_token_indices=[3, 5]), {"embed/embedding"}),
    "rows_of_tied": ("tied", dict(trainable_token_indices=[5, 3]), {"embed/embedding"}),
    "rows_of_both": ("untied", dict(
        trainable_token_indices={"embed_tokens": [3, 5], "lm_head": [2]}),
                     {"head/kernel", "embed/embedding"}),
}


@pytest.mark.parametrize("case", CASES)
def test_whole_tensors_of_an_adapter_compute_what_peft_does(bases, tmp_path, case):
  name, fields, replaced = CASES[case]
  theirs = transformers_models.logits(
      _trained(bases[name], tmp_path, name, **fields), INPUTS)

  source, stored = _opened(bases[name], tmp_path)

  ours = _ours(source, stored)
  assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
  assert {leaf for leaf in stored.specs if "lora_" not in leaf} == replaced
  if case == "factors_of_head":  # PEFT stores the layer, which is that of the base.
    return
  # Each whole tensor matters, as it is another than the base's.
  changed = dict(stored.read(list(replaced)))
  for leaf, value in source.read([x for x in replaced if x in source.specs]):
    assert np.abs(np.asarray(value) - np.asarray(changed[leaf])).max() > 0.1


def test_a_classifier_that_no_generator_reads_is_reported_and_not_refused(
    bases, tmp_path, caplog):
  base = transformers.LlamaForSequenceClassification.from_pretrained(bases["untied"])
  peft_lib.get_peft_model(base, peft_lib.LoraConfig(
      r=2, target_modules=["q_proj"], task_type="SEQ_CLS")).save_pretrained(tmp_path)

  _, stored = _opened(bases["untied"], tmp_path)

  assert "score.weight" in caplog.text
  assert set(stored.specs) == {
      "layer_0/attn/query/lora_a", "layer_0/attn/query/lora_b"}


def test_whole_tensors_that_do_not_fit_are_refused_with_what_to_do(bases, tmp_path):
  _trained(bases["untied"], tmp_path, "untied", trainable_token_indices=[3, 5])
  source = sources.open(bases["untied"])
  path, where = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
  tensors, fields = safetensors.load_file(path), json.loads(where.read_text())

  def refused(message, base=source, more=(), **change):
    safetensors.save_file(tensors | dict(more), path, {"format": "pt"})
    where.write_text(json.dumps(fields | change))
    with pytest.raises(errors.UserError, match=message):
      sources.open(tmp_path, model=source.model, base=base)

  ones = lambda *shape: np.ones(shape, np.float32)
  name = "base_model.model.model."
  refused("rows of a table are here, and not the table", base=None)
  refused("has 2 trained rows", trainable_token_indices=[3])
  refused("do not fit the table", trainable_token_indices=[3, V])
  refused("has 2 trained rows", trainable_token_indices={"lm_head": [3, 5]})
  refused("norm.weight is .* Give the model that it was trained on",
          more={f"{name}norm.weight": ones(7)})
  refused("nrm.weight is no module.*nearest: model.norm.weight",
          more={f"{name}nrm.weight": ones(12)})
  refused("Merge the adapter with PEFT", more={f"{name}norm.vera_x": ones(2)})


def test_factors_of_a_table_with_another_config_are_refused_when_opened(
    bases, tmp_path):
  _trained(bases["untied"], tmp_path, "untied", also=["embed_tokens"])
  where = tmp_path / "adapter_config.json"
  fields = json.loads(where.read_text())

  for change, message in (({"r": 4, "rank_pattern": {"q_proj": 2}}, "has the rank 2"),
                          ({"lora_alpha": None}, "no whole adapter")):
    where.write_text(json.dumps(fields | change))
    with pytest.raises(errors.UserError, match=message):
      _opened(bases["untied"], tmp_path)


def test_tables_of_an_adapter_may_have_more_rows_than_the_base(bases, tmp_path):
  _trained(bases["untied"], tmp_path, "untied", modules_to_save=["embed_tokens"])
  path = tmp_path / "adapter_model.safetensors"
  tensors = safetensors.load_file(path)
  name = "base_model.model.model.embed_tokens.weight"
  tensors[name] = np.concatenate([tensors[name], np.ones((2, 12), np.float32)])
  safetensors.save_file(tensors, path, {"format": "pt"})

  _, stored = _opened(bases["untied"], tmp_path)

  [(_, table)] = stored.read(["embed/embedding"])
  np.testing.assert_array_equal(table, tensors[name])
