"""BART of Hugging Face Transformers; learned positions begin at row 2 of each table."""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen.maps import architecture
from transfer_gen.maps import hugging_face
from transfer_gen.maps import hugging_face_lines
from transfer_gen.maps import layouts
from transfer_gen.models import decoder_config

# Fairseq counted positions from behind its padding token, which has row 1; the tables
# kept the two rows that nothing reads.
_OFFSET = 2
_BIAS = "final_logits_bias"
# Name of each attention and of its norm here, and of the attention there.
_ATTENTIONS = {
    "encoder": (("attn", "attn_norm", "self_attn"),),
    "decoder": (("attn", "attn_norm", "self_attn"),
                ("cross_attn", "cross_norm", "encoder_attn"))}


def sizes(fields: hugging_face.Fields) -> dict[str, Any]:
  """Returns the fields of our config that BART and Marian share.

  Raises:
    errors.UserError: If the two sides are of different widths.
  """
  width = fields.get("d_model")
  heads, hidden = fields.get("encoder_attention_heads"), fields.get("encoder_ffn_dim")
  layers = fields.layers("encoder_layers")
  # Transformers 3 had mBART, Pegasus and others in the class of BART, and the fields
  # from normalize_before on made the difference.
  fields.check(
      is_encoder_decoder=True, decoder_attention_heads=heads, decoder_ffn_dim=hidden,
      num_hidden_layers=(layers, None), normalize_before=False,
      add_final_layer_norm=False, add_bias_logits=False)
  return {
      "encoder_layers": layers, "num_layers": fields.layers("decoder_layers"),
      "width": width, "num_heads": heads, "mlp_width": hidden,
      "max_length": fields.get("max_position_embeddings", 1024), "norm_order": "post",
      "activation": fields.activation("activation_function", "gelu"),
      "embed_scale": width ** 0.5 if fields.get("scale_embedding", False) else 1.0,
      "tied": fields.get("tie_word_embeddings", True),
      "logit_bias": fields.stored(_BIAS),
      "start_token": fields.get("decoder_start_token_id")}


def config(model: config_lib.EncoderDecoder) -> dict[str, Any]:
  """Returns the fields of `config.json` that BART and Marian share."""
  model = decoder_config.explicit(model)
  return {
      "is_encoder_decoder": True, "vocab_size": model.vocab_size,
      "d_model": model.width, "encoder_layers": model.encoder_layers,
      "num_hidden_layers": model.encoder_layers, "decoder_layers": model.num_layers,
      "encoder_attention_heads": model.num_heads,
      "decoder_attention_heads": model.num_heads,
      "encoder_ffn_dim": model.mlp_width, "decoder_ffn_dim": model.mlp_width,
      "max_position_embeddings": model.max_length,
      "activation_function": hugging_face.activation(model.activation),
      "scale_embedding": model.embed_scale != 1, "tie_word_embeddings": model.tied,
      "decoder_start_token_id": model.start_token}


def layers(model: config_lib.EncoderDecoder, prefix: str) -> list[architecture.Line]:
  """Returns where leaves of layers and of the output lie in both."""
  found = hugging_face_lines.head(model, "lm_head")
  # The bias is a buffer [1, V] there, so it need not be in every file.
  if model.logit_bias:
    found.append(architecture.Line(
        target="head/bias", source=_BIAS, layout=layouts.Unstack(index=0)))
  for side, parts in _ATTENTIONS.items():
    layer = f"{side}/{hugging_face_lines.LAYER}"
    at = rf"{prefix}{side}.layers.\1"
    for ours, norm, theirs in parts:
      found += _attention(model, f"{layer}/{ours}", f"{at}.{theirs}")
      found += hugging_face_lines.norm(
          f"{layer}/{norm}", f"{at}.{theirs}_layer_norm", True)
    for ours, theirs in (("up", "fc1"), ("down", "fc2")):
      found += hugging_face_lines.linear(f"{layer}/mlp/{ours}", f"{at}.{theirs}", True)
    found += hugging_face_lines.norm(
        f"{layer}/mlp_norm", f"{at}.final_layer_norm", True)
  return found


def _model(fields: hugging_face.Fields, kind: str) -> config_lib.EncoderDecoder:
  del kind
  fields.check(
      normalize_embedding=True, static_position_embeddings=False,
      extra_pos_embeddings=_OFFSET, tie_word_embeddings=True)
  return config_lib.EncoderDecoder(
      **sizes(fields), vocab_size=fields.get("vocab_size"), embed_norm=True,
      position_offset=_OFFSET, encoder_marks="both")


def _config(model: config_lib.EncoderDecoder) -> dict[str, Any]:
  return {"model_type": "bart", **config(model)}


def _lines(model: config_lib.EncoderDecoder, prefix: str) -> list[architecture.Line]:
  found = [architecture.Line(target="embed/embedding", source=f"{prefix}shared.weight")]
  for side in ("encoder", "decoder"):
    found.append(architecture.Line(target=f"{side}/position/embedding",
                             source=f"{prefix}{side}.embed_positions.weight"))
    found += hugging_face_lines.norm(
        f"{side}/embed_norm", f"{prefix}{side}.layernorm_embedding", True)
  return found + layers(model, prefix)


def _attention(
    model: config_lib.EncoderDecoder, target: str, source: str,
) -> list[architecture.Line]:
  heads = (model.num_heads, model.head_dim)
  found = hugging_face_lines.linear(
      f"{target}/out", f"{source}.out_proj", True, mixed=heads)
  for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
    found += hugging_face_lines.linear(
        f"{target}/{ours}", f"{source}.{theirs}_proj", True, heads=heads)
  return found


FAMILY = hugging_face.Family(
    name="bart", what="BART of Hugging Face",
    types={"bart": "BartForConditionalGeneration"}, anchor="shared.weight",
    prefixes=("model.", ""), model=_model, config=_config, lines=_lines,
    kind=config_lib.EncoderDecoder,
    unused=(r"(encoder|decoder)\.embed_tokens\.weight",  # The one table again.
            r"(encoder|decoder)\.version"))
MAP = hugging_face.architecture(FAMILY)
