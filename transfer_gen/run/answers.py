"""What a trained run writes, as data to train another on.

Sequence-level distillation (Kim and Rush, 2016): the student learns the teacher's
answers in place of the data's. It needs nothing of the teacher but its texts, so
families, vocabularies and sizes may differ. The file is read with

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
  """Has a run answer, and writes a `.jsonl` of `input` and `target`, a pair a line.

  Args:
    workdir: Of the teacher.
    output: The file.
    num_tokens: Most tokens of an answer.
    prompts: What is answered, or, by a language model, gone on from; then `target` is
      the prompt and what follows. None: the inputs of its training split.
    beams: Of a beam search, whose best is taken, as there; 0: answers are drawn.
    step: Which checkpoint. -1: the best.
    **sampled: Where they are drawn: `seed`, `temperature`, ..., see
      `Trained.complete`.

  Returns:
    How many lines; answers that are empty are left out.

  Raises:
    errors.UserError: If there is no such run, a language model has no prompts, or a
      prompt and its answer are more than the model can read.
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
