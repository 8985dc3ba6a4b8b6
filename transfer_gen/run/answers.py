"""Writes the answers of a trained run as data to train another run on.

This is sequence-level distillation (Kim and Rush, 2016): the student learns the
teacher's answers instead of the targets of the data. It needs only the teacher's texts,
so families, vocabularies and sizes may differ. Read the file with

    data=config.Data(name="files", train="answers.jsonl", input_field="input",
                     target_field="target")
"""

from collections.abc import Sequence
import json

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.formats import whole
from transfer_gen.run import trained as trained_lib


def write(
    workdir: epath.PathLike, output: epath.PathLike, decoding: config_lib.Decoding,
    prompts: Sequence[str] | None = None, step: int = -1,
) -> int:
  """Lets a run answer prompts, and writes a `.jsonl` of `input` and `target`.

  Args:
    workdir: Workdir of the teacher.
    output: The file to write.
    decoding: How answers are written; Kim and Rush take the best of 5 beams. Each of
      its `num` texts becomes a line.
    prompts: Inputs to answer. A language model continues them, and `target` is then the
      prompt with its continuation, in reading order. If None, the inputs of the
      training split.
    step: Which checkpoint. -1 means the best.

  Returns:
    The number of lines. Empty answers are left out, and so are inputs that are longer
    than the model can read.

  Raises:
    errors.UserError: If there is no such run, a language model gets no prompts, or a
      setting is out of range.
  """
  teacher = trained_lib.open(workdir, step)
  data, splits = teacher.data()
  texts = splits["train"]
  pairs = bool(texts[0].input)
  if prompts is None and not pairs:
    raise errors.UserError(
        f"{workdir}: a language model answers no inputs. Give prompts to go on from.")
  if prompts is None:  # What training left out as too long is left out here as well.
    prompts = [text.input for text, kept in zip(
        texts, data.document_bytes("train")) if kept]
  answers = teacher.answers(prompts, decoding, progress="input").texts
  whole_text = lambda *parts: "".join(
      reversed(parts) if teacher.run.data.reverse else parts)
  lines = [json.dumps({"input": prompt, "target": answer if pairs
                       else whole_text(prompt, answer)}, ensure_ascii=False)
           for prompt, found in zip(prompts, answers) for answer in found
           if answer.strip()]
  whole.write_text(epath.Path(output), "".join(line + "\n" for line in lines))
  return len(lines)
