"""Writes the answers of a trained run as data to train another run on.

This is sequence-level distillation (Kim and Rush, 2016): the student learns the
teacher's answers instead of the targets of the data. It needs only the teacher's texts,
so families, vocabularies and sizes may differ. Read the file with

    data=config.Data(name="files", train="answers.jsonl", input_field="input",
                     target_field="target")
"""

from collections.abc import Sequence
import json
import sys
from typing import Any

from etils import epath
import tqdm

from transfer_gen import errors
from transfer_gen.formats import whole
from transfer_gen.run import trained as trained_lib

_BATCH = 64  # Prompts at a time.


def write(
    workdir: epath.PathLike, output: epath.PathLike, num_tokens: int,
    prompts: Sequence[str] | None = None, beams: int = 5, step: int = -1,
    **sampled: Any,
) -> int:
  """Lets a run answer prompts, and writes a `.jsonl` of `input` and `target`.

  Args:
    workdir: Workdir of the teacher.
    output: The file to write.
    num_tokens: Largest number of tokens of an answer.
    prompts: Inputs to answer. A language model continues them, and `target` is then the
      prompt with its continuation. If None, the inputs of the training split.
    beams: Number of beams of a beam search, whose best answer is taken. If 0, answers
      are drawn.
    step: Which checkpoint. -1 means the best.
    **sampled: If answers are drawn: `seed`, `temperature` and so on, see
      `Trained.complete`.

  Returns:
    The number of lines. Empty answers are left out.

  Raises:
    errors.UserError: If there is no such run, a language model gets no prompts, or a
      prompt and its answer are longer than the model can read.
  """
  teacher = trained_lib.open(workdir, step)
  data, splits = teacher.data()
  texts = splits["train"]
  pairs = bool(texts[0].input)
  if prompts is None and not pairs:
    raise errors.UserError(
        f"{workdir}: a language model answers no inputs. Give prompts to go on from.")
  if beams and sampled:
    raise errors.UserError(
        f"{', '.join(sampled)} is for answers that are drawn: set beams=0.")
  if prompts is None:  # What training left out as too long cannot be read here.
    prompts = [text.input for text, kept in zip(
        texts, data.document_bytes("train")) if kept]
  lines = []
  with tqdm.tqdm(total=len(prompts), unit="answer", leave=False,
                 disable=None if sys.stderr.isatty() else True) as bar:
    for start in range(0, len(prompts), _BATCH):
      batch = prompts[start:start + _BATCH]
      answers = ([found[0] for found in teacher.search(batch, num_tokens, beams)]
                 if beams else teacher.complete(batch, num_tokens, **sampled))
      lines += [json.dumps({"input": prompt, "target": answer if pairs
                            else prompt + answer}, ensure_ascii=False)
                for prompt, answer in zip(batch, answers) if answer.strip()]
      bar.update(len(batch))
  whole.write_text(epath.Path(output), "".join(line + "\n" for line in lines))
  return len(lines)
