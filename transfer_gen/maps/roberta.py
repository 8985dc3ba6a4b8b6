"""RoBERTa of Hugging Face Transformers; positions begin behind the padding token's."""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen.maps import architecture
from transfer_gen.maps import bert
from transfer_gen.maps import hugging_face
from transfer_gen.maps import hugging_face_fields as fields_lib

_HEAD = "lm_head"


def sizes(
    fields: fields_lib.Fields, head: bool, decodes: bool = False) -> dict[str, Any]:
  """Returns the fields of our config, see `bert.sizes`."""
  # The layer before the output has this activation, whatever the blocks have.
  if head:
    fields.check(hidden_act="gelu")
  offset = fields.get("pad_token_id", 1) + 1
  return {**bert.sizes(fields, head, decodes), "position_offset": offset,
          "max_length": fields.get("max_position_embeddings") - offset}


def config(model: config_lib.Decoder) -> dict[str, Any]:
  """Returns the fields of `config.json` for a RoBERTa."""
  return {**bert.config(model), "pad_token_id": model.position_offset - 1}


def own_head(model: config_lib.Decoder, at: str = "") -> list[architecture.Line]:
  """Returns lines for the output of a RoBERTa, whose names begin with `at`."""
  names = f"{at}{_HEAD}"
  return bert.head(model, f"{names}.dense", f"{names}.layer_norm", f"{names}.bias",
                   f"{names}.decoder")


def _model(fields: fields_lib.Fields, kind: str) -> config_lib.Encoder:
  del kind
  has = bert.has_head(fields, f"{_HEAD}.bias", f"{_HEAD}.dense.weight")
  return config_lib.Encoder(**sizes(fields, has), head=has)


def _config(model: config_lib.Encoder) -> dict[str, Any]:
  return {"model_type": "roberta", **bert.classes(model, "RobertaModel"),
          **config(model)}


def _lines(model: config_lib.Encoder, prefix: str) -> list[architecture.Line]:
  return [architecture.Line(target="embed/embedding", source=f"{prefix}{bert.TABLE}"),
          *bert.stack(model, "", prefix), *own_head(model)]


FAMILY = hugging_face.Family(
    name="roberta", what="RoBERTa of Hugging Face",
    types={"roberta": "RobertaForMaskedLM"}, anchor=bert.TABLE,
    prefixes=("roberta.", ""), model=_model, config=_config, lines=_lines,
    kind=config_lib.Encoder, outputs=(f"{_HEAD}.decoder.weight",), older=bert.OLDER,
    copies=lambda model: ((f"{_HEAD}.bias", f"{_HEAD}.decoder.bias"),) * model.tied,
    unused=(bert.POOLER,), kept=(bert.POOLER, rf"{_HEAD}\.bias"),
    others=(rf"{_HEAD}\.bias",))
MAP = hugging_face.architecture(FAMILY)
