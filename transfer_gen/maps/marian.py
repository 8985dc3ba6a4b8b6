"""Marian of Hugging Face Transformers: translation models, with fixed positions."""

from typing import Any

from transfer_gen import config as config_lib
from transfer_gen.data import tokenizer_pieces
from transfer_gen.maps import architecture as maps
from transfer_gen.maps import bart
from transfer_gen.maps import hugging_face
from transfer_gen.maps import hugging_face_fields as fields_lib


def _model(fields: fields_lib.Fields, kind: str) -> config_lib.EncoderDecoder:
  del kind
  size = fields.get("vocab_size")
  shared = fields.get("share_encoder_decoder_embeddings", True)
  own = fields.get("decoder_vocab_size", None) or size
  if shared:  # Three tables, or one: without ties, theirs has two more for no use.
    fields.check(decoder_vocab_size=(size, None), tie_word_embeddings=True)
  fields.check(normalize_embedding=False, static_position_embeddings=True)
  fields.get("extra_pos_embeddings", None)  # Of no use there either.
  return config_lib.EncoderDecoder(
      # Marian's sinusoids have all sines first and then all cosines, not in turns.
      **bart.sizes(fields), vocab_size=own, encoder_vocab_size=0 if shared else size,
      position="sinusoidal", sinusoid_halves=True, encoder_marks="eos")


def _config(model: config_lib.EncoderDecoder) -> dict[str, Any]:
  return {"model_type": "marian", **bart.config(model),
          "vocab_size": model.encoder_tokens,
          "decoder_vocab_size": model.vocab_size,
          "share_encoder_decoder_embeddings": not model.encoder_vocab_size}


def _lines(model: config_lib.EncoderDecoder, prefix: str) -> list[maps.Line]:
  tables = {"embed/embedding": "shared"}
  if model.encoder_vocab_size:
    tables = {"embed/embedding": "decoder.embed_tokens",
              "encoder/embed/embedding": "encoder.embed_tokens"}
  return [*(maps.Line(target=ours, source=f"{prefix}{theirs}.weight")
            for ours, theirs in tables.items()), *bart.layers(model, prefix)]


def _tokenizer(raw: maps.Raw, model: config_lib.EncoderDecoder, repair: bool):
  if model.encoder_vocab_size:
    return None, ("it has two vocabularies, vocab.json and target_vocab.json, and a"
                  " tokenizer here has one: none is taken.",)
  files = {name: maps.beside(raw, name) for name in tokenizer_pieces.FILES}
  if not all(files.values()) and maps.beside(raw, "tokenizer.json") is None:
    return None, (", ".join(sorted(n for n, path in files.items() if path is None))
                  + " is not there: no tokenizer is taken.",)
  return hugging_face.tokenizer_beside(raw, model, repair)


FAMILY = hugging_face.Family(
    name="marian", what="Marian of Hugging Face", types={"marian": "MarianMTModel"},
    # Not an embedding: its name depends on whether the two sides share it.
    anchor="encoder.layers.0.fc1.weight", prefixes=("model.", ""), model=_model,
    config=_config, lines=_lines, kind=config_lib.EncoderDecoder,
    tokenizer=_tokenizer,
    # The one table again, and sinusoids, which are computed.
    unused=(r"(encoder|decoder)\.embed_(tokens|positions)\.weight",))
MAP = hugging_face.architecture(FAMILY)
