"""Gemma, Gemma 2 and Gemma 3 of Hugging Face Transformers; beside images, its text.

Norms add 1 to their scale; embeddings are multiplied by the root of their width.
"""

import dataclasses
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.maps import hugging_face
from transfer_gen.maps import hugging_face_fields as fields_lib
from transfer_gen.maps import llama
from transfer_gen.models import decoder_config

_PATTERN = {"gemma2": 2, "gemma3_text": 6}  # Of as many layers, the last sees all.
_HABIT = {  # What the config of a text part leaves out.
    "model_type": "gemma3_text", "vocab_size": 262208, "hidden_size": 2304,
    "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072}


def _model(fields: fields_lib.Fields, kind: str) -> config_lib.Decoder:
  found = llama.sizes(fields, heads=16 if kind == "gemma" else 4, head_dim=256)
  fields.check(use_bidirectional_attention=(False, None), attention_bias=False)
  head_dim, layers = found["head_dim"], found["num_layers"]
  if kind == "gemma":
    # An older file says "gelu" and means the approximation by tanh.
    fields.check(hidden_act=("gelu_pytorch_tanh", "gelu", None),
                 hidden_activation=("gelu_pytorch_tanh", None))
    found["activation"] = "geglu"
  else:
    found |= _newer(fields, kind, layers)
  if kind == "gemma3_text":
    full = fields.rope(head_dim, fields.get("rope_theta", 1e6), kind="full_attention")
    local = fields.rope(head_dim, fields.get("rope_local_base_freq", 1e4),
                        kind="sliding_attention")
    # Our model has one scaling, that of layers without a window; those with one differ
    # in their base alone.
    if "rotary_scaling" in local:
      raise errors.UserError(
          "rope_parameters.sliding_attention.rope_type is"
          f" {local['rotary_scaling']!r}, and only 'default' is known here.")
    found |= full | {"rotary_base_window": local["rotary_base"]}
  else:
    found |= fields.rope(head_dim, fields.get("rope_theta", 1e4))
  return config_lib.Decoder(
      **found, bias=False, norm_offset=1.0, embed_scale=found["width"] ** 0.5,
      tied=fields.get("tie_word_embeddings", True))


def _newer(fields, kind, layers) -> dict[str, Any]:
  """Returns the fields that only Gemma 2 and 3 have."""
  # Defaults of Transformers' own config classes, which a config.json may leave out.
  caps = (30.0, 50.0) if kind == "gemma2" else (None, None)
  # Three generations of configs: two spellings of a period, and then the type of each
  # layer.
  pattern = fields.get("sliding_window_pattern", None)
  pattern = pattern or fields.get("_sliding_window_pattern", None) or _PATTERN[kind]
  types = fields.get("layer_types", None) or [
      "sliding_attention" if (i + 1) % pattern else "full_attention"
      for i in range(layers)]
  return {
      "activation": fields.activation(
          "hidden_activation", "gelu_pytorch_tanh", gated=True),
      "norm_order": "both", "query_norm": kind == "gemma3_text",
      # Not always the width of a head: Gemma 2 27B has 144 here, and heads of 128.
      "attention_scale": fields.get("query_pre_attn_scalar", 256) ** -0.5,
      "logit_softcap": fields.get("final_logit_softcapping", caps[0]) or 0.0,
      "attention_softcap": fields.get("attn_logit_softcapping", caps[1]) or 0.0,
      "windows": fields_lib.windows(types, fields.get("sliding_window", 4096))}


def _config(model: config_lib.Decoder) -> dict[str, Any]:
  activation = fields_lib.activation(model.activation)
  fields = llama.config(model) | {"attention_bias": False}
  if model.norm_order != "both":
    return {"model_type": "gemma", **fields, "hidden_act": activation,
            "hidden_activation": activation}
  kind = "gemma3_text" if model.query_norm else "gemma2"
  windows = model.windows or (0,)
  fields |= {
      "hidden_activation": activation, "sliding_window": max(windows) or None,
      "query_pre_attn_scalar": _scalar(model),
      "final_logit_softcapping": model.logit_softcap or None,
      "attn_logit_softcapping": model.attention_softcap or None,
      "layer_types": ["sliding_attention" if windows[i % len(windows)]
                      else "full_attention" for i in range(model.num_layers)]}
  if kind == "gemma3_text":
    base = model.window_rotary_base
    fields["rope_parameters"] = {
        "full_attention": fields_lib.rope(model),
        "sliding_attention": fields_lib.rope(dataclasses.replace(
            model, rotary_base=base, rotary_scaling="none"))}
  return {"model_type": kind, **fields}


def _scalar(model: config_lib.Decoder) -> int | float:
  """Returns the number whose root divides scores; Transformers wants an integer."""
  # Inverting the root rounds: 224 would come back as 223.99999999999997.
  scalar = decoder_config.explicit(model).attention_scale ** -2
  return round(scalar) if abs(scalar - round(scalar)) < 1e-9 else scalar


FAMILY = hugging_face.Family(
    name="gemma", what="Gemma, Gemma 2 and Gemma 3 (its text) of Hugging Face",
    types={"gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM",
           "gemma3_text": "Gemma3ForCausalLM"},
    anchor="embed_tokens.weight", model=_model, config=_config, lines=llama.lines,
    prefixes=("model.", "", "model.language_model.", "language_model.model."),
    unused=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    inside={"gemma3": ("text_config", _HABIT)},
    others=(r"(model\.)?(vision_tower|multi_modal_projector)\..*",
            r"language_model\.lm_head\.weight"))
MAP = hugging_face.architecture(FAMILY)
