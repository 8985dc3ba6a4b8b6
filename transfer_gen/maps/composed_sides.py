"""Architectures of Hugging Face Transformers as a side of an encoder-decoder."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from transfer_gen.maps import architecture
from transfer_gen.maps import bert
from transfer_gen.maps import distilbert
from transfer_gen.maps import gpt2
from transfer_gen.maps import hugging_face
from transfer_gen.maps import roberta

Lines = list[architecture.Line]
OLDER, POOLER, linear = bert.OLDER, bert.POOLER, bert.linear
_BERT_HEAD, _LM_HEAD = "cls.predictions", "lm_head"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
  """One architecture, without or with an output over tokens.

  Attributes:
    sizes: Takes the fields of its config, and returns those of our config.
    config: Takes a model of ours, and returns the fields of its config.
    stack: Takes a model, the prefixes of our names and of theirs, and returns lines for
      all but the table of tokens and the output.
    table: Name of the table of tokens.
    prefix: What names begin with in a model with an output.
    head: Takes a model and a prefix, and returns lines for the output.
    output: Name of the output's kernel, which a tied one is stored under as well.
    bias: Names of the output's bias, all of one leaf.
  """
  sizes: Callable[[hugging_face.Fields], dict[str, Any]]
  config: Callable[[Any], dict[str, Any]]
  stack: Callable[[Any, str, str], Lines]
  table: str = bert.TABLE
  prefix: str = ""
  head: Callable[[Any, str], Lines] = lambda model, at: []
  output: str = ""
  bias: tuple[str, ...] = ()


def _bert(fields: hugging_face.Fields, decodes: bool) -> dict[str, Any]:
  return {**bert.sizes(fields, decodes, decodes),
          "max_length": fields.get("max_position_embeddings")}


def _decodes(fields: dict[str, Any]) -> dict[str, Any]:
  return {**fields, "is_decoder": True, "add_cross_attention": True}


ENCODERS: Mapping[str, Side] = {
    "bert": Side(
        sizes=lambda fields: _bert(fields, False), config=bert.config,
        stack=bert.stack),
    "roberta": Side(
        sizes=lambda fields: roberta.sizes(fields, False), config=roberta.config,
        stack=bert.stack),
    "distilbert": Side(
        sizes=lambda fields: distilbert.sizes(fields, False), config=distilbert.config,
        stack=distilbert.stack)}
DECODERS: Mapping[str, Side] = {
    "bert": Side(
        sizes=lambda fields: _bert(fields, True),
        config=lambda model: _decodes(bert.config(model)),
        stack=lambda model, ours, theirs: bert.stack(model, ours, theirs, True),
        prefix="bert.",
        head=bert.own_head, output=f"{_BERT_HEAD}.decoder.weight",
        bias=(f"{_BERT_HEAD}.bias", f"{_BERT_HEAD}.decoder.bias")),
    "roberta": Side(
        sizes=lambda fields: roberta.sizes(fields, True, True),
        config=lambda model: _decodes(roberta.config(model)),
        stack=lambda model, ours, theirs: bert.stack(model, ours, theirs, True),
        prefix="roberta.",
        head=roberta.own_head, output=f"{_LM_HEAD}.decoder.weight",
        bias=(f"{_LM_HEAD}.bias", f"{_LM_HEAD}.decoder.bias")),
    "gpt2": Side(
        sizes=lambda fields: gpt2.sizes(fields, True),
        config=lambda model: _decodes(gpt2.config(model)),
        stack=lambda model, ours, theirs: gpt2.stack(model, ours, theirs, True),
        table="wte.weight",
        prefix="transformer.", head=gpt2.own_head, output=f"{_LM_HEAD}.weight")}


# Reading back what was written shows whether the choice was right, so this looks at one
# mark of each.
def encoder_of(model: Any) -> str:
  """Returns which architecture may hold an encoder of ours."""
  if not model.token_types:
    return "distilbert"
  return "roberta" if model.position_offset else "bert"


def decoder_of(model: Any) -> str:
  """Returns which architecture may hold a decoder of ours."""
  if model.norm_order != "post":
    return "gpt2"
  return "roberta" if model.position_offset else "bert"
