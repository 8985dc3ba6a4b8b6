"""Llama, Mistral, Qwen2 and Qwen3 of Hugging Face Transformers."""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen.maps import architecture
from transfer_gen.maps import hugging_face
from transfer_gen.maps import hugging_face_fields as fields_lib
from transfer_gen.maps import hugging_face_lines
from transfer_gen.models import attention

ATTENTION, MLP = ("query", "key", "value", "out"), ("up", "gate", "down")
_IN, _AT = hugging_face_lines.LAYER, r"layers.\1"
_TYPES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
          "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def sizes(fields: fields_lib.Fields, heads: int | None, head_dim: int | None
         ) -> dict[str, Any]:
  """Returns the fields of our config that follow from sizes."""
  width, queries = fields.get("hidden_size"), fields.get("num_attention_heads")
  return {
      "vocab_size": fields.get("vocab_size"),
      "num_layers": fields.layers("num_hidden_layers"), "width": width,
      "num_heads": queries, "mlp_width": fields.get("intermediate_size"),
      "num_kv_heads": fields.get("num_key_value_heads", heads) or queries,
      "head_dim": fields.get("head_dim", head_dim) or width // queries,
      "max_length": fields.get("max_position_embeddings"),
      "norm": "rms", "norm_epsilon": fields.get("rms_norm_eps", 1e-6)}


def _model(fields: fields_lib.Fields, kind: str) -> config_lib.Decoder:
  # Defaults of Transformers' own config classes, which a config.json may leave out.
  found = sizes(fields, heads={"mistral": 8, "qwen2": 32, "qwen3": 32}.get(kind),
                head_dim=128 if kind == "qwen3" else None)
  unbiased = {
      "llama": () if fields.get("attention_bias", False) else ATTENTION,
      # Qwen2 has no field for its biases: its code gives them to q, k and v alone.
      "mistral": ATTENTION, "qwen2": ("out",),
      "qwen3": () if fields.get("attention_bias", False) else ATTENTION}[kind]
  unbiased += () if fields.get("mlp_bias", False) and kind == "llama" else MLP
  return config_lib.Decoder(
      **found, activation=fields.activation("hidden_act", "silu", gated=True),
      tied=fields.get("tie_word_embeddings", False), query_norm=kind == "qwen3",
      bias=set(unbiased) != {*ATTENTION, *MLP},
      unbiased=unbiased if set(unbiased) != {*ATTENTION, *MLP} else (),
      windows=() if kind == "llama" else _windows(fields, kind, found["num_layers"]),
      **fields.rope(found["head_dim"], fields.get("rope_theta", 1e4)))


def _windows(fields: fields_lib.Fields, kind: str, layers: int) -> tuple[int, ...]:
  window = fields.get("sliding_window", 4096)
  if kind == "mistral":
    return (window,) if window else ()
  first = fields.get("max_window_layers", 28)  # Layers before it see all.
  if not fields.get("use_sliding_window", False):
    window = None
  types = fields.get("layer_types", None)
  return fields_lib.windows(types or [
      "sliding_attention" if window and i >= first else "full_attention"
      for i in range(layers)], window)


def config(model: config_lib.Decoder) -> dict[str, Any]:
  """Returns the fields of `config.json` that all of these architectures have."""
  return {
      "vocab_size": model.vocab_size, "num_hidden_layers": model.num_layers,
      "hidden_size": model.width, "num_attention_heads": model.num_heads,
      "num_key_value_heads": model.kv_heads,
      "head_dim": model.head_size,
      "intermediate_size": model.mlp_size,
      "max_position_embeddings": model.max_length, "rms_norm_eps": model.norm_epsilon,
      "rope_parameters": fields_lib.rope(model), "tie_word_embeddings": model.tied}


def _config(model: config_lib.Decoder) -> dict[str, Any]:
  biased = {part for part in ATTENTION + MLP if attention.biased(model, part)}
  fields = config(model) | {"hidden_act": fields_lib.activation(model.activation)}
  # Our config may give one period of windows; `layer_types` has an entry for each
  # layer.
  windows = [model.windows[i % len(model.windows)] for i in range(model.num_layers)
             ] if model.windows else []
  # Each type fixes what others leave open, so the model's own features decide: norms of
  # queries mean Qwen3, biases on q, k and v alone mean Qwen2.
  if model.query_norm or biased == set(ATTENTION[:3]) or len(set(windows)) > 1:
    kind = "qwen3" if model.query_norm else "qwen2"
    fields |= {
        "use_sliding_window": bool(windows),
        "sliding_window": max(windows, default=None),
        "layer_types": ["sliding_attention" if window else "full_attention"
                        for window in windows or [0] * model.num_layers]}
    if kind == "qwen3":
      fields["attention_bias"] = set(ATTENTION) <= biased
    return {"model_type": kind, **fields}
  # Only Mistral has a window in every layer and nothing else that Llama lacks.
  if windows:
    return {"model_type": "mistral", **fields, "sliding_window": windows[0]}
  return {"model_type": "llama", **fields, "mlp_bias": set(MLP) <= biased,
          "attention_bias": set(ATTENTION) <= biased}


def lines(model: config_lib.Decoder, prefix: str) -> list[architecture.Line]:
  """Returns where leaves lie, by their names in all models of this kind."""
  heads = lambda count: (count, model.head_dim)
  at = prefix + _AT
  found = [architecture.Line(
      target="embed/embedding", source=f"{prefix}embed_tokens.weight"),
           *hugging_face_lines.head(model, "lm_head")]
  for ours, count in (("query", model.num_heads), ("key", model.num_kv_heads),
                      ("value", model.num_kv_heads)):
    found += hugging_face_lines.linear(
        f"{_IN}/attn/{ours}", f"{at}.self_attn.{ours[0]}_proj",
        attention.biased(model, ours), heads=heads(count))
  found += hugging_face_lines.linear(
      f"{_IN}/attn/out", f"{at}.self_attn.o_proj", attention.biased(model, "out"),
      mixed=heads(model.num_heads))
  for ours in MLP:
    found += hugging_face_lines.linear(
        f"{_IN}/mlp/{ours}", f"{at}.mlp.{ours}_proj", attention.biased(model, ours))
  # One name, two places: `post_attention_layernorm` is the norm before the MLP in
  # Llama, and in Gemma 2 the one that ends the attention.
  norms = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
  if model.norm_order == "both":
    norms |= {"attn_post_norm": "post_attention_layernorm",
              "mlp_norm": "pre_feedforward_layernorm",
              "mlp_post_norm": "post_feedforward_layernorm"}
  if model.query_norm:
    norms |= {"attn/query_norm": "self_attn.q_norm",
              "attn/key_norm": "self_attn.k_norm"}
  for ours, theirs in norms.items():
    found += hugging_face_lines.norm(f"{_IN}/{ours}", f"{at}.{theirs}", False)
  return found + hugging_face_lines.norm("final_norm", f"{prefix}norm", False)


FAMILY = hugging_face.Family(
    name="llama", what="Llama, Mistral, Qwen2 and Qwen3 of Hugging Face", types=_TYPES,
    anchor="embed_tokens.weight", prefixes=("model.", ""), model=_model, config=_config,
    lines=lines, unused=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",))
MAP = hugging_face.architecture(FAMILY)
