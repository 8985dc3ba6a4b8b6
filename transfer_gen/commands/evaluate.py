"""`transfer-gen evaluate`: scores of a run on its test data, or on any other texts."""

import json

from transfer_gen.commands import decoding_flags
from transfer_gen.commands import flags
from transfer_gen.metrics import measures
from transfer_gen.run import evaluation
from transfer_gen.run import scorecard
from transfer_gen.run import subject as subject_lib


def run(values: flags.Values) -> None:
  """Evaluates a run; the last line printed is JSON.

  Without `--data` it also writes `scores_<split>.json` into the workdir.
  """
  texts = subject_lib.Texts(
      paths=values.data, split=values.split, input_field=values.input_field,
      target_field=values.target_field, limit=values.documents)
  asked = _asked(values)
  first = subject_lib.open(values.workdir, values.step, texts)
  subjects = [first, *([] if values.against is None else [
      subject_lib.open(values.against, -1, texts)])]
  documents = first.documents(texts)
  for subject in subjects:
    subject.check(documents)
  if first.trained.is_drawn:
    asked = asked or []
    evaluation.check_drawn(asked, _wanted(values))
  if asked is None:
    asked, why = evaluation.default_metrics(documents, bool(_wanted(values)))
    losses = ("losses",) if documents[0].target else ()
    print(f"metrics: {', '.join((*losses, *asked))} ({why})", flush=True)
  evaluation.check_outputs(_wanted(values), asked)
  decodings = [decoding_flags.override(subject.own.run.decoding, values)
               for subject in subjects]
  found = [evaluation.evaluate(
      subject.trained, documents, asked, decoding,
      subject.training() if measures.TRAINING in measures.needed(
          measures.names(asked)) else ())
      for subject, decoding in zip(subjects, decodings)]
  facts = scorecard.facts(found, values.data or values.split)
  print("\n".join(scorecard.lines(found, facts, decodings)))
  for line in scorecard.write(
      found, f"{values.workdir}: {facts['split']}", values.samples, values.output,
      values.sheet):
    print(line)
  if not (values.data or values.documents):
    scorecard.keep(found[0], facts)
  print(json.dumps(facts))


def _asked(values: flags.Values) -> list[str] | None:
  """Returns the metrics that a flag names; None where it names none."""
  scorecard.check(values.sheet)
  if values.metrics is None:
    return None
  asked = [name.strip() for name in values.metrics.split(",") if name.strip()]
  measures.names(asked)  # Unknown names are refused before anything is read.
  return asked


def _wanted(values: flags.Values) -> list[str]:
  """Returns the flags that only written texts give a meaning."""
  names = ("output", "sheet", "samples", *decoding_flags.NAMES)
  # Absent flags are None, and --samples is 0.
  return [f"--{name}" for name in names if getattr(values, name) not in (None, 0)]
