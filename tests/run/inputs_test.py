"""What a run prints of its data before it trains: what was decided and left out."""

import json

from tests import small_runs
from transfer_gen import config
from transfer_gen.run import loop


def test_every_document_is_accounted_for_before_training(tmp_path, capsys):
  pairs = [(f"in {i}", f"out {i}") for i in range(40)]
  rows = [*pairs, *pairs[:3], ("", ""), ("alone", ""), ("x", "y" * 50),
          ("long", "z" * 15)]
  for name, found in (("a", rows), ("v", pairs[:1] * 2), ("w", pairs[1:3])):
    (tmp_path / f"{name}.jsonl").write_text("".join(
        json.dumps({"q": q, "a": a}) + "\n" for q, a in found))
  run = small_runs.configure("", small_runs.DECODER, steps=1)
  run.data = config.Data(
      name="files", train=f"{tmp_path}/a.jsonl", validation=f"{tmp_path}/v.jsonl",
      test=f"{tmp_path}/w.jsonl", input_field="q", target_field="a", length=16,
      drop_empty=True, max_chars=20, too_long="cut", max_test=1)

  loop.train(run, tmp_path / "w")

  printed = capsys.readouterr().out
  lines = [line for line in printed.splitlines() if line.startswith("data: ")]
  # Of 47 rows, two have an empty side, one has too many characters, and three inputs
  # stand in the other files; of the others, one has more than 16 tokens.
  doubles = 2 * 3
  assert lines == [
      f"data: train: {47 - 3 - doubles} documents; left out: {doubles} duplicate,"
      " 2 empty, 1 too long; 1 cut to 16 tokens",
      "data: validation: 1 document; left out: 1 merged as reference",
      "data: test: 1 document; left out: 1 limit"]
  assert printed.index(lines[-1]) < printed.index("step 1")
  facts = json.loads((tmp_path / "w" / "data.json").read_text())["splits"]["train"]
  assert facts["read"] == 47 == facts["kept"] + sum(facts["dropped"].values())


def test_what_the_text_decided_is_printed(tmp_path, capsys):
  (tmp_path / "a.txt").write_text("".join(f"name {i}\n" for i in range(40)))
  run = small_runs.configure(tmp_path / "a.txt", small_runs.DECODER, steps=1)

  loop.train(run, tmp_path / "w")

  assert capsys.readouterr().out.startswith(
      f"data: {tmp_path}/a.txt: read as lines (40 lines); data.unit sets it\n"
      "data: validation and test split off train by hash\ndata: train: ")
