"""Texts become token ids, those of rows and those of prompts.

Both begin in the same way, because another beginning would be new to a model.
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import chat as chat_lib
from transfer_gen.data import fields
from transfer_gen.data import rows as rows_lib
from transfer_gen.data import tokenizers

_CHUNK = 4096  # Texts; bounds the Python lists of ints that exist at a time.
Ids = list[np.ndarray]  # i32[length] each.


@dataclasses.dataclass(frozen=True)
class Encoding:
  """How the texts of a run become token ids.

  Attributes:
    config: The data config; `length`, `too_long`, `template` and `reverse` are read
      here.
    tokenizer: The tokenizer of the targets.
    encoder: Config of the model, if it has an encoder; otherwise None.
    marked: Whether special tokens that a prompt spells are read as such.
  """
  config: config_lib.Data
  tokenizer: tokenizers.Tokenizer
  encoder: config_lib.Recurrent | None = None
  marked: bool = False

  @functools.cached_property
  def reader(self) -> tokenizers.Tokenizer:
    """Tokenizer of the inputs.

    Translation models read one language and write another, each with its own pieces.
    """
    return self.tokenizer if self.encoder is None else tokenizers.for_encoder(
        self.tokenizer)

  @property
  def own_reader(self) -> tokenizers.Tokenizer | None:
    """Tokenizer of the inputs if its ids are its own; see `tokenizers.own_encoder`."""
    return tokenizers.own_encoder(self.tokenizer)

  @functools.cached_property
  def roles(self) -> dict[str, int]:
    """Ids of all roles in the targets."""
    return tokenizers.resolve_roles(self.tokenizer)[0]

  @functools.cached_property
  def encoder_roles(self) -> dict[str, int]:
    """Ids of all roles in the inputs."""
    return tokenizers.resolve_roles(self.reader)[0]

  @functools.cached_property
  def chat(self) -> chat_lib.Tokenizer | None:
    """The tokenizer, if pairs are laid out by its chat template."""
    found: Any = self.tokenizer  # Not all kinds of tokenizers have the attribute.
    return found if self._asks_chat and self.encoder is None and (
        getattr(found, "chat", None) is not None) else None

  def check(self) -> None:
    """Raises a `UserError` if the config is out of range or does not fit the model."""
    fields.check(self.config)
    if self.config.reverse and tokenizers.is_drawn(self.tokenizer):
      raise errors.UserError(
          "data.reverse=True: it turns texts, and these are drawings. Leave it out.")
    noisy = bool(self.config.corrupt.noise)
    pairs = fields.is_pairs(self.config) or noisy
    if noisy and self.encoder is None:
      raise errors.UserError(
          "data.corrupt.noise makes a pair of each text, whose corrupted side an"
          " encoder reads, and the model has no encoder. Choose a model with one, or"
          " leave it out.")
    if self.encoder is not None and not pairs:
      raise errors.UserError(
          "The model has an encoder, which reads inputs, but the data has none. Set"
          " data.input_field (or two files, input|target, as data.train), let it read"
          " the texts themselves (data.corrupt.noise=('copy',)), or choose a model"
          " without an encoder.")
    # An answer without an end would have none to learn, and generation would run on.
    if pairs and "eos" not in self.roles:
      raise errors.UserError(
          "data: pairs need an end-of-text token, but the tokenizer has no special"
          " tokens. Choose another tokenizer.kind, or a language model"
          " (data.input_field='').")

  def notes(self) -> list[str]:
    """Returns what becomes of texts, or of a chat template that the config asks for."""
    if self.config.reverse:
      return ["the tokens of each text are read from the last to the first"]
    if "copy" in self.config.corrupt.noise:
      return ["each text becomes a pair: the encoder reads what the decoder writes"]
    if self.config.corrupt.noise:
      return ["each text becomes a pair: corrupted by"
              f" {', '.join(self.config.corrupt.noise)}, and what restores it"]
    if not self._asks_chat:
      return []
    if self.encoder is not None:
      return ["the model has an encoder, which reads prompts without a chat template"]
    return ["prompts and answers stand in the tokenizer's chat template" if self.chat
            else "the tokenizer has no chat template: rows are"
                 " [bos] prompt [sep] answer [eos]"]

  def end_tokens(self) -> tuple[int, ...]:
    """Returns the tokens that end an answer, or a text; none without special tokens."""
    eos = self.roles.get("eos")
    found = [] if eos is None else [eos]
    return tuple(sorted({*found, chat_lib.end_token(self.chat)})) if (
        self.chat) else tuple(found)

  def pairs(
      self, inputs: Sequence[str], targets: Sequence[str]
  ) -> tuple[Ids, Ids, int]:
    """Returns the token ids of inputs and targets, and the number of pairs cut.

    By a chat template they contain its special tokens, and otherwise none.

    Args:
      inputs: The inputs; "" for a language model.
      targets: The texts to learn.

    Raises:
      errors.UserError: If pairs are too long and the config refuses such, or a chat
        template cannot be rendered.
    """
    if self.chat:
      return self._chats(self.chat, inputs, targets)
    # Not all kinds of tokenizers have the method: that of drawings, of one side, has.
    if fit := getattr(self.tokenizer, "fit", None):
      drawings, cut = fit(_encode(self.tokenizer, targets), self.config)
      return _arrays([()] * len(drawings)), drawings, cut
    found = _encode(self.reader, inputs), _encode(self.tokenizer, targets)
    if not fields.is_pairs(self.config):
      return found[0], [self._turned(ids) for ids in found[1]], 0
    cut = rows_lib.fit(*found, self.encoder_roles, self.config, self.encoder)
    return list(cut[0]), list(cut[1]), cut[2]

  def prompts(
      self, texts: Sequence[str], strict: bool = True, longest: int | None = None
  ) -> list[list[int]]:
    """Encodes prompts as rows begin: `[bos] prompt`, or a pair up to its answer.

    With `reverse` a prompt is the end of a text, and its last token comes first.

    Args:
      texts: The prompts.
      strict: Whether a prompt is refused that is empty although the model answers
        inputs, or that has characters outside the vocabulary. Otherwise these become
        `unk`, as in training.
      longest: Largest number of tokens. Of longer prompts the last tokens stay, and of
        inputs of pairs the first ones. By default prompts may have any length.

    Raises:
      errors.UserError: If a prompt is refused, or a character has no token and there is
        no `unk`.
    """
    pairs = fields.is_pairs(self.config)
    ids = self._prompt_ids(texts, self.tokenizer, answered=pairs, strict=strict)
    if self.chat:
      list(ids)  # Refuses what cannot be read, by the number of the prompt.
      return chat_lib.prompts(
          self.chat, [fields.clean(text, self.config) for text in texts], longest)
    bos = [self.roles["bos"]] if "bos" in self.roles else []
    sep = [self.roles["sep"]] if pairs else []
    if longest is not None:
      room = max(longest - len(bos) - len(sep), 0)
      ids = (one[:room] if pairs else one[max(len(one) - room, 0):] for one in ids)
    return [[*bos, *one, *sep] for one in ids]

  def encoder_prompts(
      self, texts: Sequence[str], strict: bool = True, longest: int | None = None
  ) -> tuple[list[list[int]], list[list[int]]]:
    """Returns prompts as the encoder reads them, and the first tokens of their answers.

    Args:
      texts: The prompts.
      strict: As for `prompts`.
      longest: Largest number of tokens that the encoder reads; the first ones stay.

    Raises:
      errors.UserError: As `prompts`.
    """
    assert self.encoder is not None
    # The marks around an input stay, however short it is cut.
    marks = len(rows_lib.encoder_row([], self.encoder_roles, self.encoder))
    room = None if longest is None else max(longest - marks, 0)
    inputs = [
        rows_lib.encoder_row(ids[:room], self.encoder_roles, self.encoder)
        for ids in self._prompt_ids(texts, self.reader, answered=True, strict=strict)]
    return inputs, [[rows_lib.start_token(self.roles, self.encoder)] for _ in inputs]

  def text(self, ids: Sequence[int]) -> str:
    """Returns the text of tokens in the order in which a model wrote them."""
    return self.tokenizer.decode(self._turned(ids))

  def count_unknown(self, inputs: Iterable[np.ndarray], targets: Iterable[np.ndarray]
                    ) -> int:
    """Returns how many tokens stand for characters that have none."""
    return sum(
        sum(int((ids == tokenizer.roles["unk"]).sum()) for ids in texts)
        for tokenizer, texts in ((self.reader, inputs), (self.tokenizer, targets))
        if "unk" in tokenizer.roles)

  @property
  def _asks_chat(self) -> bool:
    return self.config.template == fields.CHAT and fields.is_pairs(self.config)

  def _turned(self, ids):
    """Returns the ids of a text in the other of both orders, if the model has it."""
    return ids[::-1] if self.config.reverse else ids

  def _chats(self, tokenizer, inputs, targets) -> tuple[Ids, Ids, int]:
    """Does what `pairs` does by a chat template."""
    length = self.config.length
    if self.config.too_long == "cut":
      prompts, answers, cut = chat_lib.fit(tokenizer, inputs, targets, length)
      return _arrays(prompts), _arrays(answers), cut
    prompts, answers = chat_lib.pairs(tokenizer, inputs, targets)
    # The last token of a row is only a target and takes no position.
    counts = [len(a) + len(b) - 1 for a, b in zip(prompts, answers)]
    if self.config.too_long == "refuse" and max(counts) > length:
      rows_lib.refuse_long(
          sum(count > length for count in counts), len(counts), self.config,
          f"the longest has {max(counts)}")
    return _arrays(prompts), _arrays(answers), 0

  def _prompt_ids(
      self, prompts: Sequence[str], tokenizer: tokenizers.Tokenizer, answered: bool,
      strict: bool) -> Iterator[list[int]]:
    """Yields the ids of each prompt; see `prompts` for what is refused."""
    for number, prompt in enumerate(prompts, 1):
      text = fields.clean(prompt, self.config)
      if strict and answered and not text.strip():
        raise errors.UserError(
            f"Prompt {number} is empty, but this model answers an input. Give it text.")
      # Not all kinds of tokenizers have the method.
      marked = getattr(tokenizer, "encode_marked", None) if self.marked else None
      special = chat_lib.spelled(tokenizer.special if marked else ())
      try:
        # `encode` refuses what has no token.
        ids = tokenizer.encode(special.sub("", text)) if strict else (
            tokenizer.encode_batch([text])[0])
        yield self._turned(
            marked([text])[0] if marked and special.search(text) else ids)
      except errors.UserError as error:
        raise errors.UserError(f"Prompt {number}: {error}") from error


def _encode(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> Ids:
  """Returns the token ids of each text.

  A Python list of ints takes several times the memory of an array. Encoding in chunks
  bounds how much text is held in that form.
  """
  return [ids for start in range(0, len(texts), _CHUNK)
          for ids in _arrays(tokenizer.encode_batch(texts[start:start + _CHUNK]))]


def _arrays(texts: Iterable[Sequence[int]]) -> Ids:
  return [np.asarray(ids, np.int32) for ids in texts]
