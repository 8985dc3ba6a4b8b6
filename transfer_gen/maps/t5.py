"""T5 of Hugging Face Transformers, version 1.0 and 1.1.

Scores are not scaled; distances add to them, from one table for all layers of a side.
"""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen.maps import architecture
from transfer_gen.maps import hugging_face
from transfer_gen.maps import hugging_face_fields as fields_lib
from transfer_gen.maps import hugging_face_lines
from transfer_gen.models import decoder_config

_ACTIVATIONS = {
    "relu": "relu", "silu": "silu", "gelu": "gelu_exact", "gelu_new": "gelu",
    "gated-gelu": "geglu", "gated-gelu_new": "geglu", "gated-silu": "swiglu"}
_NAMES = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
# Only the first block of a side has a table, which all its blocks use.
_RELATIVE = "block.0.layer.0.SelfAttention.relative_attention_bias"


def _model(fields: fields_lib.Fields, kind: str) -> config_lib.EncoderDecoder:
  del kind
  width, layers = fields.get("d_model"), fields.layers("num_layers")
  fields.check(is_encoder_decoder=True)
  projection = fields.choose("feed_forward_proj", "relu", _ACTIVATIONS)
  for name in ("dense_act_fn", "is_gated_act"):  # They follow from it.
    fields.get(name, None)
  # What an older file says of both, a newer one says of the scale alone.
  scaled = fields.get("tie_word_embeddings", True) is not False
  # T5 1.0 scales what its tied table reads by D ** -0.5; version 1.1 has an output of
  # its own and no scale.
  if not fields.get("scale_decoder_outputs", scaled):
    scale = 1.0
  else:
    scale = width ** -0.5
  start = fields.get("decoder_start_token_id", None)
  return config_lib.EncoderDecoder(
      vocab_size=fields.get("vocab_size"), encoder_layers=layers,
      num_layers=fields.layers("num_decoder_layers", layers), width=width,
      num_heads=fields.get("num_heads"), head_dim=fields.get("d_kv"),
      mlp_width=fields.get("d_ff"), max_length=fields.get("n_positions", 512),
      position="relative",
      relative_buckets=fields.get("relative_attention_num_buckets", 32),
      relative_distance=fields.get("relative_attention_max_distance", 128),
      norm="rms", norm_epsilon=fields.get("layer_norm_epsilon", 1e-6), bias=False,
      activation=projection, attention_scale=1.0, logit_scale=scale,
      tied=not fields.stored("lm_head.weight"), encoder_marks="eos",
      start_token=fields.get("pad_token_id", 0) if start is None else start)


def _config(model: config_lib.EncoderDecoder) -> dict[str, Any]:
  model = decoder_config.explicit(model)
  return {
      "model_type": "t5", "is_encoder_decoder": True, "vocab_size": model.vocab_size,
      "num_layers": model.encoder_layers, "num_decoder_layers": model.num_layers,
      "d_model": model.width, "num_heads": model.num_heads, "d_kv": model.head_dim,
      "d_ff": model.mlp_width, "n_positions": model.max_length,
      "relative_attention_num_buckets": model.relative_buckets,
      "relative_attention_max_distance": model.relative_distance,
      "layer_norm_epsilon": model.norm_epsilon,
      "feed_forward_proj": _NAMES.get(model.activation, model.activation),
      "scale_decoder_outputs": model.logit_scale != 1,
      "tie_word_embeddings": model.tied,
      "decoder_start_token_id": model.start_token}


def _lines(model: config_lib.EncoderDecoder, prefix: str) -> list[architecture.Line]:
  found = [architecture.Line(target="embed/embedding", source=f"{prefix}shared.weight"),
           *hugging_face_lines.head(model, f"{prefix}lm_head")]
  # The MLP is the last part of a block: number 1 in the encoder, and 2 in the decoder,
  # where cross-attention is number 1.
  for side, last in (("encoder", 1), ("decoder", 2)):
    found.append(architecture.Line(target=f"{side}/relative/embedding",
                             source=f"{prefix}{side}.{_RELATIVE}.weight"))
    found += hugging_face_lines.norm(
        f"{side}/final_norm", f"{prefix}{side}.final_layer_norm", False)
    layer = f"{side}/{hugging_face_lines.LAYER}"
    at = rf"{prefix}{side}.block.\1.layer"
    found += _attention(model, f"{layer}/attn", f"{at}.0.SelfAttention")
    found += hugging_face_lines.norm(f"{layer}/attn_norm", f"{at}.0.layer_norm", False)
    if side == "decoder":
      found += _attention(model, f"{layer}/cross_attn", f"{at}.1.EncDecAttention")
      found += hugging_face_lines.norm(
          f"{layer}/cross_norm", f"{at}.1.layer_norm", False)
    found += hugging_face_lines.norm(
        f"{layer}/mlp_norm", f"{at}.{last}.layer_norm", False)
    # wi_0 goes through the activation, which makes it the gate; wi_1 is linear.
    gated = model.activation in decoder_config.GATES
    names = {"up": "wi_1", "gate": "wi_0"} if gated else {"up": "wi"}
    for ours, theirs in (names | {"down": "wo"}).items():
      found += hugging_face_lines.linear(
          f"{layer}/mlp/{ours}", f"{at}.{last}.DenseReluDense.{theirs}", False)
  return found


def _attention(
    model: config_lib.EncoderDecoder, target: str, source: str,
) -> list[architecture.Line]:
  heads = (model.num_heads, model.head_dim)
  found = hugging_face_lines.linear(f"{target}/out", f"{source}.o", False, mixed=heads)
  for name in ("query", "key", "value"):
    found += hugging_face_lines.linear(
        f"{target}/{name}", f"{source}.{name[0]}", False, heads=heads)
  return found


FAMILY = hugging_face.Family(
    name="t5", what="T5 1.0 and 1.1 of Hugging Face",
    types={"t5": "T5ForConditionalGeneration"}, anchor="shared.weight", prefixes=("",),
    model=_model, config=_config, lines=_lines, kind=config_lib.EncoderDecoder,
    # Other names of the one table; and a table of distances for cross-attention, which
    # early files hold and no model reads.
    unused=(r"(encoder|decoder)\.embed_tokens\.weight",
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias"
            r"\.weight"))
MAP = hugging_face.architecture(FAMILY)
