"""Encoder-decoders of two models of Hugging Face Transformers: `EncoderDecoderModel`.

Rothe et al. (2020) warm-start such pairs from checkpoints of their sides: BERT2BERT,
BERT2GPT2, RoBERTaShare. The config holds one config for each side, and names begin with
the side.
"""

from collections.abc import Mapping
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import composed_sides as sides
from transfer_gen.maps import hugging_face
from transfer_gen.models import decoder_config

_TYPE, _ENCODER, _DECODER = "encoder-decoder", "encoder", "decoder"


def _model(fields: hugging_face.Fields, kind: str) -> config_lib.EncoderDecoder:
  del kind
  fields.check(is_encoder_decoder=(True, None))
  fields.ignore("vocab_size", "tie_word_embeddings")  # Those of the sides count.
  own, answers = fields.inside(_ENCODER), fields.inside(_DECODER)
  encoder: Any = _side(own, sides.ENCODERS).sizes(own)
  decoder: Any = _side(answers, sides.DECODERS).sizes(answers)
  start = fields.get("decoder_start_token_id", None)
  if start is None:
    start = answers.get("decoder_start_token_id", None)
  answers.ignore("decoder_start_token_id")
  for part in (own, answers):
    part.check(cross_attention_hidden_size=None)
    part.finish()
  given: Any = {"start_token": -1 if start is None else start, "encoder_marks": "both"}
  if fields.get("tie_encoder_decoder", False):
    return _shared(fields.where, encoder, config_lib.EncoderDecoder(
        **decoder, **given, shared=True))
  return config_lib.EncoderDecoder(
      **decoder, **given, encoder=config_lib.Encoder(**encoder, head=False),
      encoder_vocab_size=encoder["vocab_size"])


def _side(fields: hugging_face.Fields, known: Mapping[str, sides.Side]) -> sides.Side:
  return known[fields.choose("model_type", None, {name: name for name in known})]


def _shared(where, encoder, model: config_lib.EncoderDecoder):
  """Returns a model whose sides share their blocks, if they are alike."""
  head = ("tied", "transform", "logit_bias")
  differ = [name for name, value in encoder.items()
            if name not in head and getattr(model, name) != value]
  if differ:
    raise errors.UserError(
        f"{where}: tie_encoder_decoder is True, and the sides differ in"
        f" {', '.join(differ)}.")
  return model


def _config(model: config_lib.EncoderDecoder) -> dict[str, Any]:
  if model.encoder is None:
    raise errors.UserError(
        "composed holds encoder-decoders whose encoder has fields of its own, and"
        " model.encoder is None.")
  encoder = decoder_config.side_of(model, _ENCODER)
  kinds = sides.encoder_of(encoder), sides.decoder_of(model)
  found: dict[str, Any] = {
      name: {"model_type": kind, **known[kind].config(side)} for name, kind, side, known
      in zip((_ENCODER, _DECODER), kinds, (encoder, model),
             (sides.ENCODERS, sides.DECODERS))}
  start = model.start_token if model.start_token >= 0 else None
  return {"model_type": _TYPE, "is_encoder_decoder": True, **found,
          "decoder_start_token_id": start}


def _lines(model: config_lib.EncoderDecoder, prefix: str) -> list[architecture.Line]:
  del prefix
  found, decoder = _decoder_lines(model), sides.DECODERS[sides.decoder_of(model)]
  found += decoder.head(model, f"{_DECODER}.")
  if model.shared:
    return found
  side = decoder_config.side_of(model, _ENCODER)
  encoder = sides.ENCODERS[sides.encoder_of(side)]
  found.append(architecture.Line(
      target="encoder/embed/embedding", source=f"{_ENCODER}.{encoder.table}"))
  found += encoder.stack(side, f"{_ENCODER}/", f"{_ENCODER}.")
  if side.width != model.width:
    found += sides.linear("bridge", "enc_to_dec_proj", True)
  return found


def _decoder_lines(model) -> list[architecture.Line]:
  decoder = sides.DECODERS[sides.decoder_of(model)]
  at = f"{_DECODER}.{decoder.prefix}"
  return [
      architecture.Line(target="embed/embedding", source=f"{at}{decoder.table}"),
      *decoder.stack(model, f"{_DECODER}/", at)]


# Version 4 of Transformers could share all layers of both sides, and then stored them
# under one name or under both.
def _copies(model: config_lib.EncoderDecoder) -> tuple[tuple[str, ...], ...]:
  """Returns groups of names of one leaf."""
  decoder = sides.DECODERS[sides.decoder_of(model)]
  found = [tuple(f"{_DECODER}.{name}" for name in decoder.bias)] if (
      model.tied and decoder.bias) else []
  if model.shared:
    for line in _decoder_lines(model):
      for theirs in line.sources:
        for layer in range(model.num_layers if r"\1" in theirs else 1):
          name = theirs.replace(r"\1", str(layer))
          end = name.removeprefix(f"{_DECODER}.{decoder.prefix}")
          found.append((name, f"{_ENCODER}.{end}"))
  return tuple(found)


def _tokenizer(raw: architecture.Raw, model: config_lib.EncoderDecoder, repair: bool):
  encoder = decoder_config.side_of(model, _ENCODER)
  alike = encoder.vocab_size == model.vocab_size and (
      sides.encoder_of(encoder) in (sides.decoder_of(model), "distilbert"))
  if not (alike or model.shared):
    return None, ("its sides have vocabularies of their own, and one folder has one"
                  " tokenizer: none is taken. Name both as source.tokenizer or"
                  " --tokenizer: 'INPUTS|TARGETS'.",)
  return hugging_face.tokenizer_beside(raw, model, repair)


FAMILY = hugging_face.Family(
    name="composed", what="EncoderDecoderModel of Hugging Face",
    types={_TYPE: "EncoderDecoderModel"}, anchor="", prefixes=("",), model=_model,
    config=_config, lines=_lines, kind=config_lib.EncoderDecoder,
    outputs=tuple(f"{_DECODER}.{side.output}" for side in sides.DECODERS.values()),
    copies=_copies, tokenizer=_tokenizer,
    older=sides.OLDER,
    kept=(sides.POOLER, r"decoder\.(cls\.predictions|lm_head)\.bias"),
    unused=(r"encoder\.pooler\..*", r"decoder\.bert\.pooler\..*",
            r"decoder\.(cls\.predictions|lm_head)\.bias",
            r"decoder\.transformer\.h\.\d+\.(attn|crossattention)\.(masked_)?bias"))
MAP = hugging_face.architecture(FAMILY)
