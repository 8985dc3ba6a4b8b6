r"""Files of inputs that a model answers or continues, and files of its answers.

In a file of lines each line is a text, also a blank one, and \n in a line stands for a
line end, \\ for a backslash.
"""

from collections.abc import Sequence
import dataclasses
import json
import re

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import fields
from transfer_gen.data import files
from transfer_gen.data import values

_ESCAPED = re.compile(r"\\(n|r|\\)")
_PLAIN = {"n": "\n", "r": "\r", "\\": "\\"}
JSON = ".jsonl"


@dataclasses.dataclass(frozen=True)
class Prompt:
  """One input.

  Attributes:
    text: The input, as it stands in its file.
    references: Right answers, if the file has any.
  """
  text: str
  references: tuple[str, ...] = ()


def read(path: str, config: config_lib.Data) -> list[Prompt]:
  """Reads inputs from a file of lines, or from a data file as training reads it.

  Args:
    path: A file of lines; or files in a form of `config.Data.train` other than plain
      text.
    config: `input_field` and `target_field` name the columns of inputs and references;
      without an input field the target field is continued.

  Raises:
    errors.UserError: If a file is missing, empty or not of its form, or has no column
      of inputs.
  """
  if not files.is_table(path):
    return [Prompt(unescape(line)) for line in _lines(path)]
  examples = files.read(path, fields.options(config), "prompts").examples
  asked, answer = fields.names(config, path)
  as_it_is = lambda text: text
  answered = asked and any(answer.split(".")[0] in columns for _, columns in examples)
  if not answered:
    found = values.sides(examples, ("", asked or answer), as_it_is, drop_empty=False)
    return [Prompt(sides.answers[0]) for sides in found]
  # Not to drop them: an empty input is one, too.
  found = values.sides(examples, (asked, answer), as_it_is, drop_empty=True)
  return [Prompt(sides.input, tuple(filter(None, sides.answers))) for sides in found]


def check(path: str) -> None:
  """Refuses a file of lines that is missing or empty; others are checked by `read`.

  It needs no run, so that a mistyped name is found before a checkpoint is read.

  Raises:
    errors.UserError: If there is no such file, or it is empty or not UTF-8.
  """
  if not files.is_table(path):
    _lines(path)


def format_lines(
    prompts: Sequence[Prompt], answers: Sequence[Sequence[str]],
    too_long: Sequence[int], as_json: bool) -> str:
  """Returns the text of a file of answers, with a line for each input.

  Args:
    prompts: The inputs.
    answers: Texts for each input, the best first.
    too_long: Indices of the inputs that were longer than the model can read.
    as_json: Whether a line is an object of `input`, `output`, `references` (if there
      are any), `outputs` (if there are several) and `too_long` (if it was), and not the
      best answer alone.
  """
  if not as_json:
    return "".join(escape(texts[0] if texts else "") + "\n" for texts in answers)
  long, lines = set(too_long), []
  for i, (prompt, texts) in enumerate(zip(prompts, answers)):
    line = {"input": prompt.text, "output": texts[0] if texts else ""}
    line |= {"references": prompt.references} if prompt.references else {}
    line |= {"outputs": texts} if len(texts) > 1 else {}
    line |= {"too_long": True} if i in long else {}
    lines.append(json.dumps(line, ensure_ascii=False) + "\n")
  return "".join(lines)


def escape(text: str) -> str:
  r"""Returns a text as a line; \n stands for its line ends and \\ for backslashes."""
  return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def unescape(line: str) -> str:
  r"""Returns the text that a line stands for; a single backslash stays.

  >>> unescape(r"a\nb\\n \d")
  'a\nb\\n \\d'
  """
  return _ESCAPED.sub(lambda found: _PLAIN[found[1]], line)


def _lines(path):
  lines = files.lines(path)
  if not lines:
    raise errors.UserError(f"{path}: the file is empty. Give it a line for each input.")
  return lines
