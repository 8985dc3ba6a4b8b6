"""OPT of Hugging Face Transformers; learned positions begin at row 2 of their table."""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen.maps import architecture
from transfer_gen.maps import hugging_face
from transfer_gen.maps import hugging_face_fields as fields_lib
from transfer_gen.maps import hugging_face_lines
from transfer_gen.models import attention

# Fairseq counted positions from behind its padding token, which has row 1; the table
# kept the two rows that nothing reads.
_OFFSET = 2
_LINEAR = ("query", "key", "value", "out", "up", "down")
_IN, _AT = hugging_face_lines.LAYER, r"layers.\1"


def _model(fields: fields_lib.Fields, kind: str) -> config_lib.Decoder:
  del kind
  width = fields.get("hidden_size")
  # OPT-350m has embeddings narrower than its layers and a projection between; no model
  # here has that.
  fields.check(word_embed_proj_dim=(width, None), layer_norm_elementwise_affine=True)
  first = fields.get("do_layer_norm_before", True)
  return config_lib.Decoder(
      vocab_size=fields.get("vocab_size"),
      num_layers=fields.layers("num_hidden_layers"), width=width,
      num_heads=fields.get("num_attention_heads"),
      mlp_width=fields.get("ffn_dim"), position_offset=_OFFSET,
      max_length=fields.get("max_position_embeddings"),
      norm_order="pre" if first else "post",
      final_norm=not fields.get("_remove_final_layer_norm", False),
      activation=fields.activation("activation_function", "relu"),
      unbiased=() if fields.get("enable_bias", True) else _LINEAR,
      tied=fields.get("tie_word_embeddings", True))


def _config(model: config_lib.Decoder) -> dict[str, Any]:
  return {
      "model_type": "opt", "vocab_size": model.vocab_size,
      "num_hidden_layers": model.num_layers, "hidden_size": model.width,
      "word_embed_proj_dim": model.width, "num_attention_heads": model.num_heads,
      "ffn_dim": model.mlp_size,
      "max_position_embeddings": model.max_length,
      "do_layer_norm_before": model.norm_order == "pre",
      "_remove_final_layer_norm": not model.final_norm,
      "activation_function": fields_lib.activation(model.activation),
      "enable_bias": attention.biased(model, "query"),
      "tie_word_embeddings": model.tied}


def _lines(model: config_lib.Decoder, prefix: str) -> list[architecture.Line]:
  heads, at = (model.num_heads, model.width // model.num_heads), prefix + _AT
  biased = attention.biased(model, "query")
  found = [
      architecture.Line(
          target="embed/embedding", source=f"{prefix}embed_tokens.weight"),
      architecture.Line(target="position/embedding",
                  source=f"{prefix}embed_positions.weight"),
      *hugging_face_lines.head(model, "lm_head")]
  for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
    found += hugging_face_lines.linear(
        f"{_IN}/attn/{ours}", f"{at}.self_attn.{theirs}", biased, heads=heads)
  found += hugging_face_lines.linear(
      f"{_IN}/attn/out", f"{at}.self_attn.out_proj", biased, mixed=heads)
  for ours, theirs in (("up", "fc1"), ("down", "fc2")):
    found += hugging_face_lines.linear(f"{_IN}/mlp/{ours}", f"{at}.{theirs}", biased)
  norms = {f"{_IN}/attn_norm": f"{at}.self_attn_layer_norm",
           f"{_IN}/mlp_norm": f"{at}.final_layer_norm"}
  # Transformers has no final norm where each layer already ends with one.
  if model.norm_order == "pre" and model.final_norm:
    norms["final_norm"] = f"{prefix}final_layer_norm"
  for ours, theirs in norms.items():
    found += hugging_face_lines.norm(ours, theirs, True)
  return found


FAMILY = hugging_face.Family(
    name="opt", what="OPT of Hugging Face", types={"opt": "OPTForCausalLM"},
    anchor="embed_tokens.weight", prefixes=("model.decoder.", "decoder."),
    model=_model, config=_config, lines=_lines)
MAP = hugging_face.architecture(FAMILY)
