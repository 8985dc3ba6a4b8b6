"""GPT-NeoX (Pythia) of Hugging Face Transformers.

Each head's query, key and value lie beside each other in one tensor.
"""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen.maps import architecture
from transfer_gen.maps import hugging_face
from transfer_gen.maps import hugging_face_lines
from transfer_gen.maps import layouts
from transfer_gen.models import attention

_ATTENTION = ("query", "key", "value", "out")
_IN, _AT = hugging_face_lines.LAYER, r"layers.\1"


def _model(fields: hugging_face.Fields, kind: str) -> config_lib.Decoder:
  del kind
  width, heads = fields.get("hidden_size"), fields.get("num_attention_heads")
  rope = fields.rope(
      width // heads, fields.get("rotary_emb_base", 1e4),
      share=fields.get("rotary_pct", 0.25))
  biased = fields.get("attention_bias", True)
  return config_lib.Decoder(
      vocab_size=fields.get("vocab_size"),
      num_layers=fields.layers("num_hidden_layers"), width=width, num_heads=heads,
      mlp_width=fields.get("intermediate_size"),
      max_length=fields.get("max_position_embeddings", 2048),
      block="parallel" if fields.get("use_parallel_residual", True) else "serial",
      norm_epsilon=fields.get("layer_norm_eps", 1e-5),
      activation=fields.activation("hidden_act", "gelu"),
      unbiased=() if biased else _ATTENTION,
      tied=fields.get("tie_word_embeddings", False), **rope)


def _config(model: config_lib.Decoder) -> dict[str, Any]:
  # Written even if all features turn: the default of Transformers for this type is a
  # quarter.
  rope = {"partial_rotary_factor": 1.0} | hugging_face.rope(model)
  return {
      "model_type": "gpt_neox", "vocab_size": model.vocab_size,
      "num_hidden_layers": model.num_layers, "hidden_size": model.width,
      "num_attention_heads": model.num_heads,
      "intermediate_size": model.mlp_size,
      "max_position_embeddings": model.max_length, "rope_parameters": rope,
      "use_parallel_residual": model.block == "parallel",
      "layer_norm_eps": model.norm_epsilon,
      "hidden_act": hugging_face.activation(model.activation),
      "attention_bias": attention.biased(model, "query"),
      "tie_word_embeddings": model.tied}


def _lines(model: config_lib.Decoder, prefix: str) -> list[architecture.Line]:
  heads, size = model.num_heads, model.width // model.num_heads
  at, biased = prefix + _AT, attention.biased(model, "query")
  found = [architecture.Line(
      target="embed/embedding", source=f"{prefix}embed_in.weight"),
           *hugging_face_lines.head(model, "embed_out"),
           *hugging_face_lines.norm("final_norm", f"{prefix}final_layer_norm", True)]
  # Heads are the outer dimension: [H, 3 K, D]. Taking thirds before splitting by heads,
  # as in GPT-2, would mix queries, keys and values without an error.
  for index, name in enumerate(_ATTENTION[:3]):
    own = (layouts.Unflatten(dim=0, shape=(heads, 3 * size)),
           layouts.Part(dim=1, parts=3, index=index))
    target, source = f"{_IN}/attn/{name}", f"{at}.attention.query_key_value"
    found.append(architecture.Line(
        target=f"{target}/kernel", source=f"{source}.weight",
        layout=layouts.Chain(parts=(*own, layouts.Transpose(perm=(2, 0, 1))))))
    if biased:
      found.append(architecture.Line(target=f"{target}/bias", source=f"{source}.bias",
                               layout=layouts.Chain(parts=own)))
  found += hugging_face_lines.linear(
      f"{_IN}/attn/out", f"{at}.attention.dense", biased, mixed=(heads, size))
  for ours, theirs in (("up", "dense_h_to_4h"), ("down", "dense_4h_to_h")):
    found += hugging_face_lines.linear(f"{_IN}/mlp/{ours}", f"{at}.mlp.{theirs}", True)
  for ours, theirs in (
      ("attn_norm", "input_layernorm"), ("mlp_norm", "post_attention_layernorm")):
    found += hugging_face_lines.norm(f"{_IN}/{ours}", f"{at}.{theirs}", True)
  return found


FAMILY = hugging_face.Family(
    name="gpt_neox", what="GPT-NeoX and Pythia of Hugging Face",
    types={"gpt_neox": "GPTNeoXForCausalLM"}, anchor="embed_in.weight",
    prefixes=("gpt_neox.", ""), model=_model, config=_config, lines=_lines,
    unused=(r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",))
MAP = hugging_face.architecture(FAMILY)
