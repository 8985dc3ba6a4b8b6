"""Chat templates: how a checkpoint was taught to read a prompt and write its answer.

A template is a text in the language of Jinja that comes with a checkpoint (Hugging Face
Transformers, "Chat templates"). It writes special tokens and names of speakers around
the messages, and a model that was trained with them answers only where they stand.
Templates are rendered in a sandbox, see `chat_sandbox`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import json
import re
import time
from typing import Any, NoReturn, Protocol

from etils import epath
import jinja2
from jinja2 import ext
from jinja2 import nodes

from transfer_gen import errors
from transfer_gen import system
from transfer_gen.data import chat_sandbox
from transfer_gen.data import special_tokens

_FILE = "chat_template.jinja"
_TOKENS, _CONFIG = special_tokens.MAP, special_tokens.CONFIG
_LARGEST = 2**18  # Characters that a template may write around the messages.
_PROBE = "qzxj"  # Stands for an answer; no template writes it itself.
# A text in which a special token is spelled does not get that token: an invisible
# character that forbids a line break (U+2060) then stands behind the first letter.
_JOINER = "\u2060"
# Templates that print a date get this one, so that rows and answers do not change from
# day to day. It is the date of Llama 3.1's template where it is given none.
_DATE = (2024, 7, 26, 0, 0, 0, 4, 208, 0)


class Tokenizer(Protocol):
  """What is needed of a tokenizer that comes with a chat template."""
  chat: "Template | None"

  @property
  def roles(self) -> Mapping[str, int]:
    """Ids of the special tokens by role."""
    ...

  @property
  def special(self) -> Mapping[str, int]:
    """Ids of the special tokens by their spelling."""
    ...

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of texts."""
    ...

  def encode_marked(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of texts in which special tokens are spelled."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of ids, without special tokens."""
    ...


@dataclasses.dataclass(frozen=True)
class Template:
  """A chat template.

  Attributes:
    text: The template, in the language of Jinja.
    tokens: What the template calls `bos_token`, `eos_token` and so on.
  """
  text: str
  tokens: Mapping[str, str]

  def render(self, *contents: str) -> str:
    """Returns a conversation, in which the user speaks first.

    Args:
      *contents: What user and assistant say in turn. If the user speaks last, the text
        ends where the answer begins.

    Raises:
      errors.UserError: If the template cannot be rendered.
    """
    messages = [{"role": ("user", "assistant")[i % 2], "content": content}
                for i, content in enumerate(contents)]
    given = sum(map(len, contents))
    limit = _LARGEST + 4 * given
    parts, size = [], 0
    self._environment.begin(limit, 4 * _LARGEST + 64 * given)
    try:
      for part in self._compiled.generate(
          messages=messages, add_generation_prompt=len(contents) % 2 == 1, tools=None,
          documents=None, **self.tokens):
        parts.append(part)
        size += len(part)
        if size > limit:
          raise errors.UserError(
              f"chat template: it writes more than {_LARGEST:,} characters around two"
              " messages.")
    except errors.UserError:
      raise
    # Templates call methods and filters of any kind, each with errors of its own.
    except Exception as error:
      system.check("chat template", error)
      raise errors.UserError(
          f"chat template: {errors.cause(error)}. Correct the template, or set"
          " data.template=none.") from error
    return "".join(parts)

  @functools.cached_property
  def _environment(self) -> chat_sandbox.Environment:
    return chat_sandbox.Environment(
        filters={"tojson": _to_json}, trim_blocks=True, lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"])

  @functools.cached_property
  def _compiled(self) -> jinja2.Template:
    return self._environment.from_string(
        self.text, globals={"raise_exception": _refuse, "strftime_now": _date})


def read(folder: epath.Path) -> Template | None:
  """Reads the chat template beside a tokenizer, if there is one.

  Of several templates with names, it is the one that is named "default".

  Args:
    folder: A folder with `chat_template.jinja`, or `chat_template` in
      `tokenizer_config.json` or `chat_template.json`.

  Raises:
    errors.UserError: If a file holds something else.
  """
  config, old, tokens = map(special_tokens.read_json, (
      folder / _CONFIG, folder / "chat_template.json", folder / _TOKENS))
  if special_tokens.exists(folder / _FILE):
    text = special_tokens.read_text(folder / _FILE)
  else:
    text = config.get("chat_template", old.get("chat_template"))
  if isinstance(text, list):
    text = {one.get("name"): one.get("template")
            for one in text if isinstance(one, dict)}.get("default")
  if text is None:
    return None
  if not isinstance(text, str):
    raise errors.UserError(f"{folder / _CONFIG}: chat_template is not a text.")
  named = {name: value.get("content") if isinstance(value, dict) else value
           for name, value in {**config, **tokens}.items()
           if name.endswith("_token")}
  return Template(text, {
      name: value for name, value in named.items() if isinstance(value, str)})


def write(template: Template, folder: epath.Path) -> None:
  """Writes a template to a folder, where `read` and Transformers find it."""
  (folder / _FILE).write_bytes(template.text.encode("utf-8"))
  (folder / _TOKENS).write_bytes(json.dumps(dict(template.tokens)).encode("utf-8"))


def spelled(special: Iterable[str]) -> re.Pattern[str]:
  """Returns a pattern that finds special tokens in a text, as one group."""
  # The longest first: one token may begin like another.
  names = sorted(special, key=len, reverse=True)
  return re.compile(f"({'|'.join(map(re.escape, names))})" if names else "((?!))")


def prompts(
    tokenizer: Tokenizer, texts: Sequence[str], longest: int | None = None
) -> list[list[int]]:
  """Returns the token ids of messages, up to where the answers begin.

  Args:
    tokenizer: A tokenizer with a chat template.
    texts: What the user says, for each prompt.
    longest: Largest number of tokens; of longer prompts, the end of the message is cut
      off. By default, prompts may have any length.

  Raises:
    errors.UserError: If the template cannot be rendered.
  """
  texts, template, plain = list(texts), _template(tokenizer), _plain(tokenizer)
  while True:
    found = tokenizer.encode_marked([template.render(plain(text)) for text in texts])
    long = [] if longest is None else [
        i for i, ids in enumerate(found) if len(ids) > longest and texts[i]]
    if longest is None or not long:
      return found
    for i in long:
      texts[i] = _shortened(tokenizer, texts[i], len(found[i]) - longest)


def pairs(
    tokenizer: Tokenizer, inputs: Sequence[str], answers: Sequence[str]
) -> tuple[list[list[int]], list[list[int]]]:
  """Returns the token ids of prompts, as `prompts` does, and those of their answers.

  An answer ends with the special token that the template writes behind it, or with eos
  if there is none.

  Raises:
    errors.UserError: If the template cannot be rendered, or writes a prompt otherwise
      when the answer is there.
  """
  template, plain = _template(tokenizer), _plain(tokenizer)
  before = [template.render(plain(text)) for text in inputs]
  whole = [template.render(plain(text), plain(answer))
           for text, answer in zip(inputs, answers)]
  for prompt, both in zip(before, whole):
    if not both.startswith(prompt):
      raise errors.UserError(
          "chat template: with an answer, it writes the prompt otherwise than without,"
          f" {both[:len(prompt)][-60:]!r} and {prompt[-60:]!r}. Correct the template,"
          " or set data.template=none.")
  starts = tokenizer.encode_marked(before)
  both_ids = tokenizer.encode_marked(whole)
  # Where the first letters of an answer would share a token with the end of the prompt,
  # answers are encoded alone, because generation also reads the prompt alone.
  ends = [
      ids[len(start):] if ids[:len(start)] == start
      else tokenizer.encode_marked([text[len(prompt):]])[0]
      for ids, start, text, prompt in zip(both_ids, starts, whole, before)]
  skipped, end = _end(tokenizer)
  special = set(tokenizer.special.values())
  return starts, [_cut(ids, special, skipped, end) for ids in ends]


def fit(
    tokenizer: Tokenizer, inputs: Sequence[str], answers: Sequence[str], length: int
) -> tuple[list[list[int]], list[list[int]], int]:
  """Does what `pairs` does, and cuts what a row of T = `length` inputs does not hold.

  The end of the input is cut off and, if the answer alone takes more than half of the
  row, also that of the answer.

  Returns:
    The token ids of prompts and answers, and the number of pairs that were cut.
  """
  inputs, answers = list(inputs), list(answers)
  starts, ends = pairs(tokenizer, inputs, answers)
  cut: set[int] = set()
  left: Sequence[int] = range(len(inputs))
  while left:
    long = []
    for i in left:
      start, end = starts[i], ends[i]
      # The last token of a row is only a target and takes no position.
      excess = len(start) + len(end) - 1 - length
      beyond_half = len(end) - length // 2
      side = answers if beyond_half > 0 else inputs
      if excess > 0 and side[i]:
        count = min(excess, beyond_half) if beyond_half > 0 else excess
        side[i] = _shortened(tokenizer, side[i], count)
        long.append(i)
    cut.update(long)
    left = long
    again = pairs(tokenizer, [inputs[i] for i in left], [answers[i] for i in left])
    for i, start, end in zip(left, *again):
      starts[i], ends[i] = start, end
  return starts, ends, len(cut)


def end_token(tokenizer: Tokenizer) -> int:
  """Returns the token with which an answer ends.

  Raises:
    errors.UserError: If the template writes no special token behind an answer and there
      is no eos, or it cannot be rendered.
  """
  return _end(tokenizer)[1]


class _Generation(ext.Extension):
  """The tag `generation`, which marks what an assistant says and writes nothing."""
  tags = {"generation"}

  def parse(self, parser: Any) -> list[nodes.Node]:
    next(parser.stream)
    return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, **options: Any) -> str:
  # Jinja's own filter escapes for HTML.
  return json.dumps(value, ensure_ascii=False, **options)


def _refuse(message: str) -> NoReturn:
  raise jinja2.TemplateError(message)


def _date(form: str) -> str:
  return time.strftime(form, _DATE)


def _template(tokenizer: Tokenizer) -> Template:
  assert tokenizer.chat is not None, "callers ask for the template first"
  return tokenizer.chat


def _plain(tokenizer: Tokenizer) -> Callable[[str], str]:
  """Returns a function that makes a text spell no special token."""
  pattern = spelled(tokenizer.special)
  return lambda text: pattern.sub(lambda m: m[0][0] + _JOINER + m[0][1:], text)


def _end(tokenizer: Tokenizer) -> tuple[int, int]:
  """Returns how many special tokens an answer contains, and the one that ends it."""
  template = _template(tokenizer)
  prompt, both = template.render("a"), template.render("a", _PROBE)
  head, found, tail = both[len(prompt):].partition(_PROBE)
  if not found:
    raise errors.UserError(
        "chat template: it does not write the answer of an assistant as it is. Correct"
        " the template, or set data.template=none.")
  pattern = spelled(tokenizer.special)
  skipped = len(pattern.findall(head))
  if end := pattern.search(tail):
    return skipped, tokenizer.special[end[0]]
  if "eos" not in tokenizer.roles:
    raise errors.UserError(
        "chat template: no special token ends an answer, and the tokenizer has no eos."
        " Correct the template, or set data.template=none.")
  return skipped, tokenizer.roles["eos"]


def _cut(ids: list[int], special: set[int], skipped: int, end: int) -> list[int]:
  """Returns an answer up to its last token, which is added if it is not there."""
  places = [i for i, token in enumerate(ids) if token in special][skipped:]
  return ids[:places[0] + 1] if places else [*ids, end]


def _shortened(tokenizer: Tokenizer, text: str, count: int) -> str:
  """Returns a text without its last tokens."""
  ids = tokenizer.encode_batch([text])[0]
  # The bytes of a character that was cut in two would become longer in text.
  shorter = tokenizer.decode(ids[:max(len(ids) - count, 0)]).rstrip("\ufffd")
  # However a tokenizer decodes, cutting comes to an end.
  return shorter if len(shorter) < len(text) else text[:-1]
