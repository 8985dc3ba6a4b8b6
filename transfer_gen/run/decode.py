"""Texts in, texts out: lets a model answer or continue any number of inputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import progress as progress_lib
from transfer_gen.data import encoding as encoding_lib
from transfer_gen.data import fields
from transfer_gen.generate import bulk
from transfer_gen.models import registry

Decoding, Parallel = config_lib.Decoding, config_lib.Parallel
is_drawn = registry.is_drawn
_DEFAULT_LENGTH = 64  # New tokens of a language model, if `max_tokens` is 0.
_LOST = "\ufffd"  # Stands for bytes that are no character, or none yet.


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextModel:
  """A model with all that is needed to read and write texts with it.

  Attributes:
    module: The module, with its adapters.
    params: Its params by name.
    tokenizer: Tokenizer of its ids.
    data: How the texts of its training were cleaned and laid out.
    model: Its config.
    marked: Whether prompts may spell special tokens, as in Transformers. In those of a
      run with data they are text, as in its training texts.
  """
  module: registry.Model
  params: Mapping[str, Any]
  tokenizer: encoding_lib.tokenizers.Tokenizer
  data: config_lib.Data
  model: Any
  marked: bool = False

  @property
  def encoding(self) -> encoding_lib.Encoding:
    """How texts become tokens."""
    return encoding_lib.Encoding(
        self.data, self.tokenizer,
        self.model if registry.encodes(self.model) else None, self.marked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
  """What a model wrote.

  Attributes:
    texts: For each input, in order, `Decoding.num` texts, the best first in a beam
      search, which may find fewer; [""] for an input that is reported as too long.
    too_long: Indices of the inputs that were longer than the model can read, and that
      were reported or cut as `Decoding.too_long` says.
  """
  texts: list[list[str]]
  too_long: list[int]


def answers(
    model: TextModel, inputs: Sequence[str], decoding: Decoding, *,
    parallel: Parallel | None = None, batch_size: int = 64, progress: str = "",
    strict: bool = False, known: Mapping[int, list[str]] | None = None,
    keep: Callable[[int, list[str]], object] = lambda index, texts: None,
) -> Answers:
  """Lets a model answer inputs, or if it was not trained on pairs, continue them.

  Args:
    model: The model.
    inputs: Any number of texts, in any order; they may be empty.
    decoding: How texts are written.
    parallel: How the work is divided over devices; if there are others than it says,
      all of them divide the batch. If None, work is done where the params are.
    batch_size: Number of texts that are written at a time, on all devices together.
    progress: What the progress on standard error counts, such as "input"; none if
      empty.
    strict: Whether characters without a token, and an empty input of a model that
      answers inputs, are an error. Otherwise they are read as in training.
    known: Texts of inputs that were written before, by their index.
    keep: Called with the index and the texts of each input when they are written.

  Returns:
    The texts, in the order of the inputs. They depend neither on `batch_size` nor on
    the other inputs, except that equal inputs get different samples.

  Raises:
    errors.UserError: If a field of `decoding` is out of range, or an input has
      characters without a token and there is no token for unknown ones.
  """
  decoding = resolved(model, decoding)
  read, too_long = _read(model, inputs, decoding, strict)
  done = dict(known or {})
  reported = set(too_long) if decoding.too_long == "report" else set()
  for i in reported - done.keys():
    done[i] = [""]
    keep(i, done[i])
  # All inputs, because what is drawn for an input depends on the equal ones before it.
  left = [i for i in range(len(inputs)) if i not in done]
  with contextlib.ExitStack() as stack:
    work = progress and stack.enter_context(progress_lib.track(
        "writing", len(inputs), progress, done=len(done)))
    for i, texts in written(model, read, decoding, only=left, parallel=parallel,
                            batch_size=batch_size):
      done[i] = texts
      keep(i, texts)
      if work:
        work.advance()
  return Answers(texts=[done[i] for i in range(len(inputs))], too_long=too_long)


def written(
    model: TextModel, inputs: bulk.Inputs, decoding: Decoding, **how: Any
) -> Iterator[tuple[int, list[str]]]:
  """Yields texts for tokens or latents, as soon as they are written.

  Args:
    model: The model.
    inputs: What texts are written for.
    decoding: What `resolved` returned.
    **how: Further arguments of `bulk.write`.

  Yields:
    The index of an input, and its texts as of `Answers`.
  """
  for i, tokens in bulk.write(
      model.module, model.params, inputs, _written(model, decoding),
      watch=_stopper(model, decoding.stop), **how):
    yield i, [_cut(model, model.encoding.text(one), decoding.stop) for one in tokens]


def stream(
    model: TextModel, text: str, decoding: Decoding, show: Callable[[str], object]
) -> str:
  """Answers or continues one text, and shows each part of it as soon as it is written.

  Args:
    model: The model.
    text: The input.
    decoding: How the text is written; a beam search shows its text at the end, and so
      does a model with `Data.reverse`.
    show: Called with each part. Parts end at whole characters, and contain nothing of a
      text before which the answer is cut off.

  Returns:
    All parts together.

  Raises:
    errors.UserError: As `answers` with `strict`; or if the text is too long.
  """
  decoding = dataclasses.replace(resolved(model, decoding), num=1)
  read, _ = _read(model, [text], decoding, strict=True)
  shown = ""

  def watch(texts):
    nonlocal shown
    whole = model.encoding.text(texts[0])
    # The last bytes may be the beginning of a character or of a stop.
    sure = _cut(model, whole, decoding.stop)
    ended = len(sure) < len(whole)
    # What is written from right to left grows in front of what would be shown.
    if model.data.reverse:
      return [ended] * len(texts)
    sure = sure if ended else _settled(sure, decoding.stop)
    # A tokenizer may decode the same tokens otherwise once more of them follow, and
    # what was shown cannot be taken back.
    if sure.startswith(shown):
      show(sure[len(shown):])
      shown = sure
    return [ended] * len(texts)

  [(_, [tokens])] = bulk.write(
      model.module, model.params, read, _written(model, decoding), batch_size=1,
      watch=watch, every=1)
  answer = _cut(model, model.encoding.text(tokens), decoding.stop)
  show(answer[len(shown):])
  return answer


def resolved(model: TextModel, decoding: Decoding) -> Decoding:
  """Returns settings in which 0 and () are replaced by what they mean for a model."""
  pairs = registry.encodes(model.model) or fields.is_pairs(model.data)
  return dataclasses.replace(
      decoding,
      max_tokens=decoding.max_tokens or (
          model.data.length if pairs else _DEFAULT_LENGTH),
      end_tokens=decoding.end_tokens or model.encoding.end_tokens())


# Tables are rounded up for the hardware, and lists of tokens have gaps. Such rows were
# hardly trained, and a text has nothing to show for them.
def _written(model: TextModel, decoding: Decoding) -> Decoding:
  """Returns settings that draw no row of the table for which there is no token."""
  tokenizer = model.tokenizer
  named = {*tokenizer.roles.values(), *tokenizer.special.values(), *decoding.end_tokens}
  without = [i for i in range(model.model.vocab_size) if i not in named and (
      i >= tokenizer.size or not tokenizer.tokens[i])]
  return dataclasses.replace(
      decoding, suppress=tuple(sorted({*decoding.suppress, *without})))


def _read(model, inputs, decoding, strict) -> tuple[bulk.Inputs, list[int]]:
  """Returns the tokens of inputs, and which inputs are too long for the model."""
  encoder_inputs, prompts = _tokens(model, inputs, strict)
  longest = registry.longest(model.module)
  budgets, too_long = [decoding.max_tokens] * len(inputs), []
  # A prompt must leave room for a new token.
  limit = registry.longest_input(model.module) if encoder_inputs else (
      longest and longest - 1)
  if limit is not None:
    lengths = [len(text) for text in encoder_inputs or prompts]
    too_long = [i for i, length in enumerate(lengths) if length > limit]
    # Half of what the model reads is left to the prompt, however much it may write.
    room = limit if encoder_inputs or longest is None else longest - min(
        decoding.max_tokens, longest // 2)
    shorter = _tokens(model, [inputs[i] for i in too_long], strict, room)
    for rows, cut in zip((encoder_inputs, prompts), shorter):
      for i, ids in zip(too_long, cut or ()):
        assert rows is not None, "as many kinds of rows as were cut"
        rows[i] = ids
  if longest is not None:
    budgets = [min(decoding.max_tokens, longest - len(one)) for one in prompts]
  return bulk.Inputs(
      prompts=prompts, encoder_inputs=encoder_inputs, budgets=budgets), too_long


def _tokens(model, texts, strict, longest=None) -> tuple[list | None, list]:
  """Returns what the encoder reads, None without one, and prompts."""
  if registry.encodes(model.model):
    return model.encoding.encoder_prompts(texts, strict, longest)
  return None, model.encoding.prompts(texts, strict, longest)


# Texts are searched and not tokens, because the tokens that spell a stop may also spell
# what stands beside it.
def _stopper(model, stops):
  """Returns what ends rows whose text contains a stop; None if there are no stops."""
  if not stops:
    return None
  return lambda texts: [
      any(stop in text for stop in stops)
      for text in map(model.encoding.text, texts)]


def _cut(model: TextModel, text: str, stops: Sequence[str]) -> str:
  """Returns what was written of a text before its first stop."""
  if model.data.reverse:
    return text[max((at + len(stop) for stop in stops if (at := text.rfind(stop)) >= 0),
                    default=0):]
  return text[:min((at for stop in stops if (at := text.find(stop)) >= 0),
                   default=len(text))]


def _settled(text: str, stops: Sequence[str]) -> str:
  """Returns the part of a text that no further token can change or cut off."""
  text = text.rstrip(_LOST)
  held = max((size for stop in stops for size in range(1, len(stop))
              if text.endswith(stop[:size])), default=0)
  return text[:len(text) - held]
