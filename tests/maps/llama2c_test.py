"""Tests for llama2.c files, against Transformers' Llama with the same weights."""

import struct

import numpy as np
import pytest
import transformers

from tests import transformers_models
from tests.comparing import distance
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.maps import mapped
from transfer_gen.models import registry

V, T = 29, 20
INPUTS = np.random.default_rng(0).integers(0, V, (2, 9)).astype(np.int32)
SHAPES = {"grouped": dict(heads=4, groups=2, tied=True),
          "untied": dict(heads=3, groups=3, tied=False)}


def llama(heads, groups, tied):
  config = transformers.LlamaConfig(
      vocab_size=V, hidden_size=24, intermediate_size=20, num_hidden_layers=2,
      num_attention_heads=heads, num_key_value_heads=groups, rms_norm_eps=1e-5,
      max_position_embeddings=T, tie_word_embeddings=tied)
  model = transformers.LlamaForCausalLM(config).eval()
  return transformers_models.add_noise(model)


def write(path, model):
  """Writes a file of version 0, in which rotary pairs are adjacent rows."""
  config, state = model.config, model.state_dict()
  size = config.hidden_size // config.num_attention_heads

  def to_pairs(kernel):
    """Turns f32[heads * size, D] from half-split rows to adjacent pairs."""
    kernel = kernel.reshape(-1, 2, size // 2, kernel.shape[-1])
    return kernel.transpose(0, 2, 1, 3).reshape(-1, kernel.shape[-1])

  def layers(name, change=lambda x: x):
    for i in range(config.num_hidden_layers):
      yield change(state[f"model.layers.{i}.{name}.weight"].numpy())

  attention = [
      layers(f"self_attn.{letter}_proj", to_pairs if letter in "qk" else lambda x: x)
      for letter in "qkvo"]
  mlp = [layers(f"mlp.{name}_proj") for name in ("gate", "down", "up")]
  tensors = [state["model.embed_tokens.weight"].numpy(), *layers("input_layernorm")]
  tensors += [x for group in attention for x in group]
  tensors += [*layers("post_attention_layernorm"), *(x for group in mlp for x in group),
              state["model.norm.weight"].numpy(), np.zeros((2, T, size // 2))]
  tied = config.tie_word_embeddings
  tensors += [] if tied else [state["lm_head.weight"].numpy()]
  path.write_bytes(
      struct.pack("<7i", 24, 20, 2, config.num_attention_heads,
                  config.num_key_value_heads, V if tied else -V, T)
      + b"".join(np.ascontiguousarray(x, "<f4").tobytes() for x in tensors))


@pytest.mark.parametrize("name", SHAPES)
def test_logits_match_llama_and_tensors_are_exported_unchanged(name, tmp_path):
  model = llama(**SHAPES[name])
  write(tmp_path / "model.bin", model)

  source = sources.open(tmp_path / "model.bin")

  params = {name: np.asarray(x) for name, x in source.read(list(source.specs))}
  ours = registry.build(source.model).apply({"params": tree.unflatten(params)}, INPUTS)
  want = transformers_models.logits(model, INPUTS)
  assert distance(ours, want) <= 1e-5
  back = mapped.export(list(source.view.rows.values()), source.view.raw.specs, params)
  for leaf, value in source.view.raw.read(list(back)):
    np.testing.assert_array_equal(back[leaf].view(np.uint8), value.view(np.uint8))
  assert source.view.raw.specs.keys() - back.keys() == {
      "freq_cis_real", "freq_cis_imag"}


def _tokens(*texts):
  """Returns the bytes of a tokenizer.bin in which earlier texts merge first."""
  entries = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *texts]
  return struct.pack("<i", 9) + b"".join(
      struct.pack("<fi", -i, len(text)) + text for i, text in enumerate(entries))


def test_the_tokenizer_merges_in_order_of_score(tmp_path):
  write(tmp_path / "model.bin", llama(**SHAPES["grouped"]))
  texts = [b" a", b"bc", b"ab", b" ", b"a", b"b", b"c", b"<0x0A>", "é".encode()]
  texts += [b"%d" % i for i in range(V - 3 - len(texts))]
  (tmp_path / "tokenizer.bin").write_bytes(_tokens(*texts))

  tokenizer = sources.open(tmp_path / "model.bin").tokenizer

  assert [texts[i - 3] for i in tokenizer.encode("abc\né")] == [
      b" a", b"bc", b"<0x0A>", "é".encode()]
  assert tokenizer.decode(tokenizer.encode("abc\né")) == "abc\né"
  assert tokenizer.roles == {"bos": 1, "eos": 2, "unk": 0}


@pytest.mark.parametrize("data, message", [
    (_tokens(*[b"%d" % i for i in range(V - 3)])[:-1], "leads out of the file"),
    (_tokens(*[b"%d" % i for i in range(V)]), "more tokens than the model's 29"),
    (_tokens(*[b"a"] * (V - 3)), "'a' stands there twice"),
    (_tokens(*[b"\xff"] * (V - 3)), "no whole llama2.c tokenizer"),
], ids=["cut", "long", "doubled", "no text"])
def test_a_damaged_tokenizer_is_reported(data, message, tmp_path):
  write(tmp_path / "model.bin", llama(**SHAPES["grouped"]))
  (tmp_path / "tokenizer.bin").write_bytes(data)

  with pytest.raises(errors.UserError, match=message):
    sources.open(tmp_path / "model.bin")
