"""Writes the answers to many inputs to a file, and continues where it was cut.

Beside the file stands `<name>.progress` until all inputs are answered: a line that says
what is being answered by what, and a line for each answer.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import hashlib
import json
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import prompts as prompts_lib
from transfer_gen.formats import whole
from transfer_gen.run import decode
from transfer_gen.run import trained as trained_lib

PROGRESS = ".progress"


def write(
    trained: trained_lib.Trained, prompts: Sequence[prompts_lib.Prompt],
    decoding: config_lib.Decoding, output: epath.PathLike, **how: Any
) -> decode.Answers:
  """Lets a run answer inputs, and writes the answers; whole, or not at all.

  Args:
    trained: The run.
    prompts: The inputs.
    decoding: How texts are written.
    output: A `.jsonl`, or else a file of lines, see `prompts.format_lines`.
    **how: See `decode.answers`.

  Raises:
    errors.UserError: If a file of lines is asked for several texts for an input, if
      other inputs or settings were being answered into the same file, or if another
      process is answering into it.
  """
  output = epath.Path(output)
  if "://" in str(output):
    raise errors.UserError(
        f"{output}: answers are added to a file one by one, which other storage cannot"
        " do. Give a local --output, and copy it.")
  whole.check_output(output)
  as_json = output.suffix == prompts_lib.JSON
  if decoding.num > 1 and not as_json:
    raise errors.UserError(
        f"{output}: a file of lines holds one text for each input, and there are"
        f" {decoding.num}. Give it the ending {prompts_lib.JSON}, or lower num.")
  texts = [prompt.text for prompt in prompts]
  progress = output.with_name(output.name + PROGRESS)
  with whole.alone(output):
    with _kept(progress, _identity(trained, texts, decoding)) as (known, keep):
      answers = trained.answers(texts, decoding, known=known, keep=keep, **how)
    whole.write_text(output, prompts_lib.format_lines(
        prompts, answers.texts, answers.too_long, as_json))
    # Only now: if writing fails, all answers are still in the file of progress.
    progress.unlink()
  return answers


@contextlib.contextmanager
def _kept(
    path: epath.Path, identity: str) -> Iterator[tuple[dict[int, list[str]], Any]]:
  """Yields the answers that a file of progress holds, and a function that adds one."""
  known: dict[int, list[str]] = {}
  header = (json.dumps(identity) + "\n").encode()
  complete = 0  # Bytes of lines that are whole: a killed process may cut its last one.
  whole.make_way(path)
  if path.exists():
    lines = whole.read_bytes(path).splitlines(keepends=True)
    lines = [line for line in lines if line.endswith(b"\n")]
    if lines and lines[0] != header:
      raise errors.UserError(
          f"{path}: it holds {len(lines) - 1} answers to other inputs, with other"
          " settings or of another checkpoint. Repeat that command to complete them, or"
          " delete the file to start anew.")
    with whole.damaged(path):
      known = dict(map(_answer, lines[1:]))
    complete = sum(map(len, lines))
  with whole.writing(path):
    with path.open("ab") as file:
      file.truncate(complete)
      if not complete:
        file.write(header)

      def keep(index, texts):
        file.write((json.dumps({"index": index, "texts": texts}) + "\n").encode())
        file.flush()

      yield known, keep


def _answer(line: bytes) -> tuple[int, list[str]]:
  """Parses a line of a file of progress; raises an error that `damaged` knows."""
  found = whole.parse_json(line)
  index, texts = found["index"], found["texts"]
  if type(index) is not int or not all(isinstance(text, str) for text in texts):
    raise ValueError(f"{str(found)[:80]} is no answer")
  return index, texts


def _identity(trained, texts, decoding) -> str:
  """Returns a hash of all that decides the answers."""
  digest = hashlib.sha256(json.dumps([
      dataclasses.asdict(decode.resolved(trained.texts, decoding)),
      trained.step, texts]).encode())
  for name in sorted(trained.params):
    # The first entries of each leaf: a run that trained on has changed some of them.
    digest.update(np.asarray(trained.params[name]).ravel()[:64].tobytes())
  return digest.hexdigest()
