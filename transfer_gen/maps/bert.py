"""BERT of Hugging Face Transformers: an encoder with a masked-language head.

Its parts are those of RoBERTa too, and of the decoders that Transformers makes of both.
"""

from collections.abc import Mapping
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import hugging_face
from transfer_gen.maps import hugging_face_lines
from transfer_gen.models import decoder_config

linear = hugging_face_lines.linear
TABLE = "embeddings.word_embeddings.weight"
# Until 2019 norms had the names of TensorFlow.
OLDER = {".gamma": ".weight", ".beta": ".bias"}
_LINEARS = {
    "attn/query": "attention.self.query", "attn/key": "attention.self.key",
    "attn/value": "attention.self.value", "attn/out": "attention.output.dense",
    "mlp/up": "intermediate.dense", "mlp/down": "output.dense"}
_NORMS = {"attn_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm"}
_HEAD = "cls.predictions"
# The layer that reads the first token alone, of these and of the pairs of them.
POOLER = r"(.*\.)?pooler\..*"
# Fields of versions of 2018 and 2019, and rates of dropout.
_IDLE = ("attention_probs_dropout_prob", "directionality", "hidden_dropout_prob",
         "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
         "pooler_size_per_head", "pooler_type")


def sizes(
    fields: hugging_face.Fields, head: bool, decodes: bool = False) -> dict[str, Any]:
  """Returns the fields of our config, of a BERT or RoBERTa without its positions.

  Args:
    fields: Its `config.json`.
    head: Whether there is an output over tokens.
    decodes: Whether it is the decoder of a pair.

  Raises:
    errors.UserError: If no model here computes the same.
  """
  fields.ignore(*_IDLE)
  fields.check(position_embedding_type=("absolute", None))
  if not fields.get("type_vocab_size", 2):
    raise errors.UserError(f"{fields.where}: type_vocab_size is 0; tokens have a type.")
  for name in ("is_decoder", "add_cross_attention"):
    if bool(fields.get(name, False)) != decodes:
      raise errors.UserError(
          f"{fields.where}: {name} is {not decodes}. " + (
              "The decoder of a pair needs both is_decoder and add_cross_attention."
              if decodes else "A BERT or RoBERTa that decodes is read as a part of an"
              " encoder-decoder alone. If this one was trained to see both ways, set"
              " it to false."))
  return {
      "vocab_size": fields.get("vocab_size"),
      "num_layers": fields.layers("num_hidden_layers"),
      "width": fields.get("hidden_size"),
      "num_heads": fields.get("num_attention_heads"),
      "mlp_width": fields.get("intermediate_size"), "norm_order": "post",
      "norm_epsilon": fields.get("layer_norm_eps", 1e-12),
      "activation": fields.activation("hidden_act", "gelu"), "embed_norm": True,
      "token_types": fields.get("type_vocab_size", 2), **output(fields, head)}


def output(fields: hugging_face.Fields, head: bool) -> dict[str, Any]:
  """Returns the fields of our config for an output with a layer before it."""
  tied = fields.get("tie_word_embeddings", True)
  return {"tied": tied or not head, "transform": head, "logit_bias": head}


def has_head(fields: hugging_face.Fields, *leaves: str) -> bool:
  """Returns whether a checkpoint has an output over tokens, or says that it has.

  Args:
    fields: Its `config.json`.
    *leaves: Names of leaves of an output.
  """
  # A file that lacks the output its class has is then refused by the names that are
  # missing, where Transformers would draw it anew.
  named = str(fields.get("architectures", None))
  return any(map(fields.stored, leaves)) or "MaskedLM" in named or (
      "PreTraining" in named or "LMHead" in named)


def config(model: config_lib.Decoder) -> dict[str, Any]:
  """Returns the fields of `config.json` that BERT and RoBERTa share."""
  model = decoder_config.explicit(model)
  return {
      "vocab_size": model.vocab_size, "num_hidden_layers": model.num_layers,
      "hidden_size": model.width, "num_attention_heads": model.num_heads,
      "intermediate_size": model.mlp_width, "layer_norm_eps": model.norm_epsilon,
      "max_position_embeddings": model.max_length + model.position_offset,
      "hidden_act": hugging_face.activation(model.activation),
      "type_vocab_size": model.token_types, "tie_word_embeddings": model.tied,
      "position_embedding_type": "absolute"}


def stack(
    model: config_lib.Decoder, ours: str, theirs: str, crosses: bool = False
) -> list[architecture.Line]:
  """Returns lines for all but the table of tokens and the output.

  Args:
    model: Config of the side, with all sizes written out.
    ours: Prefix of our names, such as `encoder/`.
    theirs: Prefix of their names.
    crosses: Whether there is cross-attention.
  """
  at = f"{theirs}embeddings"
  tables = {"position": "position_embeddings", "token_type": "token_type_embeddings"}
  found = [architecture.Line(target=f"{ours}{mine}/embedding",
                             source=f"{at}.{name}.weight")
           for mine, name in tables.items() if model.token_types or mine == "position"]
  found += hugging_face_lines.norm(f"{ours}embed_norm", f"{at}.LayerNorm", True)
  linears, norms = dict(_LINEARS), dict(_NORMS)
  if crosses:
    linears |= {
        name.replace("attn", "cross_attn"): there.replace("attention", "crossattention")
        for name, there in _LINEARS.items() if name.startswith("attn")}
    norms["cross_norm"] = "crossattention.output.LayerNorm"
  return found + hugging_face_lines.block(
      f"{ours}{hugging_face_lines.LAYER}", rf"{theirs}encoder.layer.\1", linears, norms,
      (model.num_heads, model.head_dim))


def head(
    model: config_lib.Decoder, dense: str, norm: str, bias: str, decoder: str
) -> list[architecture.Line]:
  """Returns lines for the output, by the names of its parts there."""
  if not model.transform:
    return []
  found = hugging_face_lines.linear("transform/dense", dense, True)
  found += hugging_face_lines.norm("transform/norm", norm, True)
  if not model.tied:
    return found + hugging_face_lines.linear("head", decoder, True)
  return [*found, architecture.Line(target="head/bias", source=bias)]


def own_head(model: config_lib.Decoder, at: str = "") -> list[architecture.Line]:
  """Returns lines for the output of a BERT, whose names begin with `at`."""
  names = f"{at}{_HEAD}"
  return head(model, f"{names}.transform.dense", f"{names}.transform.LayerNorm",
              f"{names}.bias", f"{names}.decoder")


def classes(model: Any, name: str) -> Mapping[str, Any]:
  """Returns the field of `config.json` that names the class of a model without a head.

  The class of one with a head is that of its family.
  """
  return {} if model.head else {"architectures": [name]}


def _model(fields: hugging_face.Fields, kind: str) -> config_lib.Encoder:
  del kind
  has = has_head(fields, f"{_HEAD}.bias", f"{_HEAD}.transform.dense.weight")
  return config_lib.Encoder(
      **sizes(fields, has), head=has, max_length=fields.get("max_position_embeddings"))


def _config(model: config_lib.Encoder) -> dict[str, Any]:
  return {"model_type": "bert", **classes(model, "BertModel"), **config(model)}


def _lines(model: config_lib.Encoder, prefix: str) -> list[architecture.Line]:
  return [architecture.Line(target="embed/embedding", source=f"{prefix}{TABLE}"),
          *stack(model, "", prefix), *own_head(model)]


FAMILY = hugging_face.Family(
    name="bert", what="BERT of Hugging Face", types={"bert": "BertForMaskedLM"},
    anchor=TABLE, prefixes=("bert.", ""), model=_model, config=_config, lines=_lines,
    kind=config_lib.Encoder, outputs=(f"{_HEAD}.decoder.weight",), older=OLDER,
    copies=lambda model: ((f"{_HEAD}.bias", f"{_HEAD}.decoder.bias"),) * model.tied,
    # What says whether a sentence follows another, or reads the first token alone; and
    # a bias that only tied outputs use.
    unused=(POOLER,), kept=(POOLER, r"cls\.(seq_relationship\..*|predictions\.bias)"),
    others=(r"cls\.seq_relationship\..*", rf"{_HEAD}\.bias"))
MAP = hugging_face.architecture(FAMILY)
