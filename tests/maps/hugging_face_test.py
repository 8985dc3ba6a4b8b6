"""Tests for decoders of Hugging Face Transformers, against that library.

Every param is random, also norms and biases: a mistake with a param that is 0 or 1
would not show.
"""

import functools
import json

from etils import epath
import jax
import numpy as np
import pytest
import torch
import transformers

from tests import transformers_models
from tests.comparing import distance
from tests.maps import round_trip
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.export import convert
from transfer_gen.formats import safetensors
from transfer_gen.generate import sampling
from transfer_gen.models import registry

V = 37
SIZES = dict(vocab_size=V, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
             intermediate_size=28, max_position_embeddings=96)
GROUPED = SIZES | dict(num_key_value_heads=2)
GPT2 = dict(vocab_size=V, n_positions=96, n_embd=24, n_layer=2, n_head=3)
OPT = dict(vocab_size=V, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
           ffn_dim=28, max_position_embeddings=96)
GEMMA2 = GROUPED | dict(
    num_hidden_layers=3, head_dim=8, query_pre_attn_scalar=11, sliding_window=5,
    attn_logit_softcapping=1.5, final_logit_softcapping=4.0)
GEMMA3 = GROUPED | dict(
    num_hidden_layers=3, head_dim=8, query_pre_attn_scalar=11, sliding_window=5,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"])
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
          "high_freq_factor": 3.0, "original_max_position_embeddings": 24}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
LINEAR = {"rope_type": "linear", "factor": 3.0}
CASES = {
    "gpt2": ("GPT2", GPT2),
    "gpt2_untied": ("GPT2", GPT2 | dict(
        tie_word_embeddings=False, n_inner=20, activation_function="relu")),
    "gpt2_unscaled": ("GPT2", GPT2 | dict(scale_attn_weights=False, n_head=2)),
    "opt": ("OPT", OPT),
    "opt_post": ("OPT", OPT | dict(do_layer_norm_before=False, enable_bias=False)),
    "opt_untied": ("OPT", OPT | dict(
        _remove_final_layer_norm=True, tie_word_embeddings=False,
        activation_function="gelu")),
    "neox": ("GPTNeoX", SIZES | dict(hidden_size=32)),
    "neox_serial": ("GPTNeoX", SIZES | dict(
        use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True,
        rope_parameters={"rope_theta": 50.0, "partial_rotary_factor": 1.0})),
    "neox_scaled": ("GPTNeoX", SIZES | dict(
        num_attention_heads=3, hidden_act="relu",
        rope_parameters=LINEAR | {"partial_rotary_factor": 0.5})),
    "llama": ("Llama", GROUPED),
    "llama_tied": ("Llama", SIZES | dict(
        tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
        rope_parameters=LLAMA3 | {"rope_theta": 500.0})),
    "llama_yarn": ("Llama", GROUPED | dict(
        head_dim=10, num_key_value_heads=1, rope_parameters=YARN, mlp_bias=True)),
    "mistral": ("Mistral", GROUPED | dict(sliding_window=5)),
    "mistral_tied": ("Mistral", GROUPED | dict(
        sliding_window=None, tie_word_embeddings=True, head_dim=8)),
    "qwen2": ("Qwen2", GROUPED),
    "qwen2_tied": ("Qwen2", GROUPED | dict(
        tie_word_embeddings=True, use_sliding_window=True, sliding_window=4,
        max_window_layers=1)),
    "qwen3": ("Qwen3", GROUPED | dict(head_dim=8)),
    "qwen3_tied": ("Qwen3", GROUPED | dict(
        head_dim=10, tie_word_embeddings=True, attention_bias=True,
        rope_parameters=YARN | {"rope_theta": 900.0, "attention_factor": 1.3})),
    "gemma": ("Gemma", GROUPED | dict(head_dim=8)),
    "gemma2": ("Gemma2", GEMMA2),
    "gemma2_uncapped": ("Gemma2", GEMMA2 | dict(
        attn_logit_softcapping=None, final_logit_softcapping=None, head_dim=6,
        num_key_value_heads=4, layer_types=["full_attention"] * 3)),
    "gemma3": ("Gemma3", GEMMA3),
    "gemma3_scaled": ("Gemma3", GEMMA3 | dict(
        num_key_value_heads=1, final_logit_softcapping=5.0, rope_parameters={
            "full_attention": LINEAR | {"rope_theta": 700.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0}})),
}
INPUTS = np.random.default_rng(0).integers(0, V, (3, 12)).astype(np.int32)
# One case of each architecture runs by default; the others are marked `long`.
SHORT = ("gpt2", "opt_post", "neox", "llama_tied", "mistral", "qwen2", "qwen3",
         "gemma2", "gemma3_scaled")
NAMES = pytest.mark.parametrize("name", [
    name if name in SHORT else pytest.param(name, marks=pytest.mark.long)
    for name in CASES])


@functools.cache
def opened(name):
  """Returns a model of Transformers, its files as a source, and our params."""
  model = transformers_models.decoder(*CASES[name])
  return model, *transformers_models.opened(model)


def logits_of(source, params):
  module = registry.build(source.model)
  return np.asarray(jax.jit(module.apply)({"params": tree.unflatten(params)}, INPUTS))


@NAMES
def test_logits_match_transformers(name):
  model, source, params = opened(name)

  ours = logits_of(source, params)

  want = transformers_models.logits(model, INPUTS)
  assert distance(ours, want) <= 1e-5


@NAMES
def test_greedy_generation_matches_transformers(name):
  model, source, params = opened(name)

  new = sampling.generate(
      registry.build(source.model), params, INPUTS[:, :5].tolist(),
      decoding=config.Decoding(max_tokens=64))

  want = model.generate(
      torch.tensor(INPUTS[:, :5], dtype=torch.int64), do_sample=False,
      max_new_tokens=64, attention_mask=torch.ones(3, 5, dtype=torch.int64))
  assert new == want[:, 5:].tolist()
  # A model that repeats a single token would match too easily.
  assert len({token for row in new for token in row}) > 1


@NAMES
def test_reading_and_writing_back_keeps_every_bit(name):
  _, source, params = opened(name)

  round_trip.assert_bits_are_kept(source, params)


@pytest.mark.parametrize("name, fields, message", [
    ("gpt2", dict(scale_attn_by_inverse_layer_idx=True),
     "scale_attn_by_inverse_layer_idx is True, and only False"),
    ("gpt2", dict(activation_function="tanh"), "activation_function is 'tanh'"),
    ("opt", dict(word_embed_proj_dim=16), "word_embed_proj_dim is 16"),
    ("llama", dict(hidden_act="relu"), "hidden_act is 'relu'"),
    ("llama", dict(quantization_config={"bits": 4}), "quantization_config=.*no model"),
    ("llama", dict(kv_shift=2), "kv_shift=2: no model here .*--idle_field=kv_shift"),
    ("llama", dict(rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
     "rope_type is 'dynamic'"),
    ("llama", dict(rope_parameters={"rope_type": "linear", "factor": 2.0, "x": 1}),
     "rope_parameters.x: not known here with rope_type='linear'"),
    ("llama", dict(rope_parameters=YARN | {"truncate": False}), "truncate is False"),
    ("llama", dict(rope_parameters={"partial_rotary_factor": 0.5}),
     "partial_rotary_factor is 0.5"),
    ("qwen2", dict(layer_types=["linear_attention"] * 2), "'linear_attention'"),
    ("gemma2", dict(use_bidirectional_attention=True), "use_bidirectional_attention"),
    ("llama", dict(num_attention_heads="x"), "'x'"),
    ("gemma2", dict(num_hidden_layers=10**9),
     "num_hidden_layers is 1000000000, and the checkpoint has"),
    ("gpt2", dict(n_embd=12), "The map does not fit the checkpoint"),
    ("gemma3", dict(rope_parameters={"sliding_attention": LINEAR}),
     "rope_parameters.sliding_attention.rope_type is 'linear'"),
], ids=str)
def test_unsupported_fields_are_refused_by_name(
    name, fields, message, tmp_path):
  transformers_models.decoder(*CASES[name]).save_pretrained(tmp_path)
  config = json.loads((tmp_path / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(config | fields))

  with pytest.raises(errors.UserError, match=message):
    sources.open(tmp_path)


def test_fields_that_change_nothing_are_read_over(tmp_path):
  _, source, _ = opened("llama_tied")
  folder = source.view.raw.path.parent
  (tmp_path / "model.safetensors").write_bytes(
      (folder / "model.safetensors").read_bytes())
  config = json.loads((folder / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(config | {
      "_attn_implementation_autoset": True, "unsloth_version": "2025.3.1",
      "tokenizer_class": "LlamaTokenizerFast", "auto_map": {"AutoModel": "m.X"},
      "temperature": 0.7, "top_k": 50, "num_return_sequences": 1,
      "is_llama_config": True, "rope_interleaved": False,
      "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}}))

  assert sources.open(tmp_path).model == source.model


def test_a_config_of_an_older_version_gives_the_same_model(tmp_path):
  """Rotary fields used to stand at the top level, and some sizes could be left out."""
  _, source, _ = opened("llama_tied")
  model = source.view.raw.path.parent
  config = json.loads((model / "config.json").read_text())
  del config["rope_parameters"], config["head_dim"], config["num_key_value_heads"]
  rope = {key: value for key, value in LLAMA3.items() if key != "rope_type"}
  config |= {"rope_theta": 500.0, "rope_scaling": rope | {"type": "llama3"},
             "torch_dtype": "float32", "pretraining_tp": 1}
  (tmp_path / "config.json").write_text(json.dumps(config))
  (tmp_path / "model.safetensors").write_bytes(
      (model / "model.safetensors").read_bytes())

  assert sources.open(tmp_path).model == source.model


def test_a_base_model_without_name_prefix_is_read(tmp_path):
  model, source, params = opened("gpt2")
  model.transformer.save_pretrained(tmp_path)

  base = sources.open(tmp_path)

  assert "h.0.ln_1.weight" in base.view.raw.specs
  read = dict(base.read(list(base.specs)))
  assert read.keys() == params.keys()
  for name, value in read.items():
    np.testing.assert_array_equal(value, params[name])


def with_images(folder):
  """Saves a Gemma 3 with its vision tower under the current names, and returns it."""
  made = transformers.Gemma3Config(
      text_config=GEMMA3 | dict(
          bos_token_id=None, eos_token_id=None, pad_token_id=None),
      vision_config=dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                         num_attention_heads=1, image_size=8, patch_size=4),
      mm_tokens_per_image=4, boi_token_index=1, eoi_token_index=2, image_token_index=3)
  model = transformers.Gemma3ForConditionalGeneration._from_config(
      made, attn_implementation="eager").eval()
  transformers_models.add_noise(model)
  model.save_pretrained(folder)
  return model


def test_the_text_part_of_a_vision_model_is_read_and_written(tmp_path):
  model = with_images(tmp_path / "in")
  source = sources.open(tmp_path / "in")
  params = dict(source.read(list(source.specs)))

  convert.convert(tmp_path / "in", tmp_path / "out", "safetensors")

  with torch.no_grad():
    # Tokens 1 to 3 stand for images, so the text does without them.
    tokens = torch.tensor(4 + INPUTS % (V - 4), dtype=torch.int64)
    want = model(tokens).logits.double().numpy()
    alone, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, attn_implementation="eager")
    written = alone(tokens).logits.double().numpy()
  ours = jax.jit(registry.build(source.model).apply)(
      {"params": tree.unflatten(params)}, 4 + INPUTS % (V - 4))
  assert distance(ours, want) <= 1e-5
  assert distance(written, want) <= 1e-5
  assert not any(info.values()) and alone.config.model_type == "gemma3_text"
  assert any("vision_tower" in name for name in source.view.raw.specs)


def test_a_vision_model_with_older_names_is_read(tmp_path):
  """The published files of Gemma 3: the text config omits sizes with a default."""
  _, source, params = opened("gemma3")
  leaves = dict(source.view.raw.read(list(source.view.raw.specs)))
  made = json.loads((source.view.raw.path.parent / "config.json").read_text())
  old = {f"language_model.{name}": value for name, value in leaves.items()}
  old["vision_tower.vision_model.embeddings.patch.weight"] = np.ones((2, 2), np.float32)
  old["multi_modal_projector.mm_input_projection_weight"] = np.ones(3, np.float32)
  safetensors.write_file(epath.Path(tmp_path / "model.safetensors"), old, {})
  (tmp_path / "config.json").write_text(json.dumps(
      {"model_type": "gemma3", "text_config": made, "vision_config": {"x": 1}}))

  again = sources.open(tmp_path)

  assert again.model == source.model
  for name, value in again.read(list(again.specs)):
    np.testing.assert_array_equal(value, params[name])
  del made["num_attention_heads"]
  (tmp_path / "config.json").write_text(json.dumps(
      {"model_type": "gemma3", "text_config": made}))
  with pytest.raises(errors.UserError, match="map does not fit"):
    sources.open(tmp_path)  # The default of 8 heads does not fit the 4 of this model.
