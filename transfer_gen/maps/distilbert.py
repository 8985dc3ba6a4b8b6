"""DistilBERT of Hugging Face Transformers (Sanh et al., 2019)."""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen.maps import architecture
from transfer_gen.maps import bert
from transfer_gen.maps import hugging_face
from transfer_gen.maps import hugging_face_fields as fields_lib
from transfer_gen.maps import hugging_face_lines

_EPSILON = 1e-12  # Of all its norms; its config does not name it.
_LINEARS = {
    "attn/query": "attention.q_lin", "attn/key": "attention.k_lin",
    "attn/value": "attention.v_lin", "attn/out": "attention.out_lin",
    "mlp/up": "ffn.lin1", "mlp/down": "ffn.lin2"}
_NORMS = {"attn_norm": "sa_layer_norm", "mlp_norm": "output_layer_norm"}
# Its positions are a table that is stored, also where it was filled with sinusoids.
_IDLE = ("qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds", "tie_weights_")


def sizes(fields: fields_lib.Fields, head: bool) -> dict[str, Any]:
  """Returns the fields of our config, see `bert.sizes`."""
  fields.ignore(*_IDLE)
  return {
      "vocab_size": fields.get("vocab_size"), "num_layers": fields.layers("n_layers"),
      "width": fields.get("dim"), "num_heads": fields.get("n_heads"),
      "mlp_width": fields.get("hidden_dim"), "norm_order": "post",
      "norm_epsilon": _EPSILON, "activation": fields.activation("activation", "gelu"),
      "embed_norm": True, "max_length": fields.get("max_position_embeddings"),
      **bert.output(fields, head)}


def config(model: config_lib.Decoder) -> dict[str, Any]:
  """Returns the fields of `config.json` for a DistilBERT."""
  return {
      "vocab_size": model.vocab_size, "n_layers": model.num_layers,
      "dim": model.width, "n_heads": model.num_heads, "hidden_dim": model.mlp_size,
      "activation": hugging_face.activation(model.activation),
      "max_position_embeddings": model.max_length, "tie_word_embeddings": model.tied}


def stack(model: config_lib.Decoder, ours: str, theirs: str) -> list[architecture.Line]:
  """Returns lines for all but the table of tokens and the output; see `bert.stack`."""
  at = f"{theirs}embeddings"
  return [
      architecture.Line(target=f"{ours}position/embedding",
                        source=f"{at}.position_embeddings.weight"),
      *hugging_face_lines.norm(f"{ours}embed_norm", f"{at}.LayerNorm", True),
      *hugging_face_lines.block(
          f"{ours}{hugging_face_lines.LAYER}", rf"{theirs}transformer.layer.\1",
          _LINEARS, _NORMS, (model.num_heads, model.head_size))]


def _model(fields: fields_lib.Fields, kind: str) -> config_lib.Encoder:
  del kind
  has = bert.has_head(fields, "vocab_transform.weight", "vocab_projector.bias")
  return config_lib.Encoder(**sizes(fields, has), head=has)


def _config(model: config_lib.Encoder) -> dict[str, Any]:
  return {"model_type": "distilbert", **bert.classes(model, "DistilBertModel"),
          **config(model)}


def _lines(model: config_lib.Encoder, prefix: str) -> list[architecture.Line]:
  return [architecture.Line(target="embed/embedding", source=f"{prefix}{bert.TABLE}"),
          *stack(model, "", prefix),
          *bert.head(model, "vocab_transform", "vocab_layer_norm",
                     "vocab_projector.bias", "vocab_projector")]


FAMILY = hugging_face.Family(
    name="distilbert", what="DistilBERT of Hugging Face",
    types={"distilbert": "DistilBertForMaskedLM"}, anchor=bert.TABLE,
    prefixes=("distilbert.", ""), model=_model, config=_config, lines=_lines,
    kind=config_lib.Encoder, outputs=("vocab_projector.weight",))
MAP = hugging_face.architecture(FAMILY)
