"""Checks that damaged tokenizers are refused clearly, or read and write texts.

Run: python -m benchmarks.trust_tokenizers [COUNT [SEED]]
The tokenizers of every form are mutated: bytes are overwritten, cut or repeated, and
values of JSON replaced, removed or nested. Each mutant is loaded, and encodes and
decodes texts, in a process of its own. `run` says what is counted.
"""

import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
from typing import Any

from etils import epath

from benchmarks import forking
from benchmarks import timing
from transfer_gen import config
from transfer_gen import sealed
from transfer_gen.data import tokenizers

_TEXTS = ["a line of text, and more of it.", "The quick brown fox jumps over 13 dogs.",
          "äöü 日本 </s> [MASK] <extra_id_0>", ""]


def run(count: int, seed: int) -> dict[str, Any]:
  """Loads and uses mutated tokenizers.

  Args:
    count: Number of mutants.
    seed: Of the mutations.

  Returns:
    As `forking.summary`: `wrong` counts tokenizers with ids outside of their size, and
    sealed ones that encode or decode otherwise than before; `failures` must be 0.
  """
  with tempfile.TemporaryDirectory() as folder:
    timing.alone(_write, folder)
    forms = sorted(pathlib.Path(folder).iterdir())
    results = []
    for number in range(count):
      rng = random.Random(f"{seed} {number}")
      form = rng.choice(forms)
      results.append(_mutant(form, rng) | {"size": _size(form)})
      forking.show(form.name, number, results[-1])
  return forking.summary(results)


def _mutant(form: pathlib.Path, rng: random.Random) -> dict[str, Any]:
  with tempfile.TemporaryDirectory() as own:
    copy = pathlib.Path(own) / form.name
    shutil.copytree(form, copy)
    files = [path for path in copy.rglob("*") if path.is_file()]
    target = rng.choice(sorted(path for path in files if path.name != sealed.FILE))
    target.write_bytes(forking.mutate(target.read_bytes(), rng.randrange(2**32)))
    before = set(pathlib.Path(own).rglob("*"))
    # A file alone is a tokenizer too.
    alone = target.name in ("tokenizer.json", "spiece.model") and rng.random() < 0.3
    result = forking.alone(
        forking.attempt, str(target if alone else copy), _reader(str(form)))
    if before != set(pathlib.Path(own).rglob("*")):
      result["outcome"] = "outside"
  return result


def _reader(form: str) -> Any:
  def read(path: str) -> str:
    tokenizer = tokenizers.load(path)
    for side in {id(one): one for one in (
        tokenizer, tokenizers.for_encoder(tokenizer))}.values():
      found = side.encode_batch(_TEXTS)
      ids = [i for one in found for i in one]
      if any(not 0 <= i < side.size for i in (*ids, *side.roles.values())) or (
          len(side.tokens) != side.size):
        return "wrong"
      side.decode(range(min(side.size, 1000)))
    wrong = pathlib.Path(form, sealed.FILE).exists() and _use(tokenizer) != _use(
        tokenizers.load(form))
    _use(tokenizer)
    return "wrong" if wrong else "loaded"
  return read


def _use(tokenizer: Any) -> Any:
  ids = tokenizer.encode(_TEXTS[0])
  return ids, tokenizer.decode(ids), tokenizers.for_encoder(tokenizer).encode(_TEXTS[0])


def _size(form: pathlib.Path) -> int:
  return sum(path.stat().st_size for path in form.rglob("*") if path.is_file())


def _write(folder: str) -> None:
  """Writes a folder for each form."""
  import sentencepiece
  import tokenizers as library
  texts = [f"{text} {i} {i * 7 % 13}" for i in range(50) for text in _TEXTS[:3]]
  root = epath.Path(folder)
  for kind, model, trainer in (
      ("bpe", library.models.BPE(unk_token="<unk>"), library.trainers.BpeTrainer),
      ("wordpiece", library.models.WordPiece(unk_token="<unk>"),
       library.trainers.WordPieceTrainer),
      ("unigram", library.models.Unigram(), library.trainers.UnigramTrainer)):
    made = library.Tokenizer(model)
    made.normalizer = library.normalizers.Sequence(
        [library.normalizers.NFKC(), library.normalizers.Lowercase()])
    made.pre_tokenizer = library.pre_tokenizers.Whitespace()
    more = {"unk_token": "<unk>"} if kind == "unigram" else {}
    made.train_from_iterator(texts, trainer(
        vocab_size=120, show_progress=False, special_tokens=["<unk>", "</s>"], **more))
    (root / kind).mkdir()
    (root / kind / "tokenizer.json").write_text(made.to_str())
    (root / kind / "tokenizer_config.json").write_text(json.dumps(
        {"eos_token": "</s>", "chat_template": "{{ messages[0].content }}",
         "added_tokens_decoder": {"1": {"content": "</s>", "special": True}}}))
  _write_lists(root)
  for kind in ("unigram", "bpe"):
    model = root / f"sentencepiece_{kind}"
    model.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=os.fspath(model / "spiece"),
        vocab_size=66, model_type=kind, minloglevel=2)
    (model / "spiece.vocab").unlink()
    (model / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
  model = (root / "sentencepiece_unigram" / "spiece.model").read_bytes()
  pieces = tokenizers.load(root / "sentencepiece_unigram")
  (root / "marian").mkdir()
  for name in ("source.spm", "target.spm"):
    (root / "marian" / name).write_bytes(model)
  (root / "marian" / "vocab.json").write_text(json.dumps(
      {token: i for i, token in enumerate(
          pieces._processor.id_to_piece(list(range(pieces.size))))}))
  _write_own(root, texts)


def _write_lists(root: epath.Path) -> None:
  """Writes the two forms that are lists of tokens."""
  letters = "abcdefghijklmnopqrstuvwxyz.,0123456789"
  (root / "gpt2").mkdir()
  pairs = [("t", "h"), ("th", "e"), ("a", "n"), ("an", "d")]
  tokens = ["<|endoftext|>", "\u0120", *letters, *(a + b for a, b in pairs)]
  (root / "gpt2" / "vocab.json").write_text(json.dumps(
      {token: i for i, token in enumerate(tokens)}))
  (root / "gpt2" / "merges.txt").write_text("\n".join(
      ["#version: 0.2", *(f"{a} {b}" for a, b in pairs), ""]))
  (root / "bert").mkdir()
  (root / "bert" / "vocab.txt").write_text("\n".join(
      ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters,
       *(f"##{letter}" for letter in letters), ""]))
  (root / "bert" / "tokenizer_config.json").write_text('{"do_lower_case": true}')


def _write_own(root: epath.Path, texts: list[str]) -> None:
  """Writes what runs of this package leave, as it is and sealed."""
  loaded = {"own_pieces": tokenizers.load(root / "marian"),
            "own_sentencepiece": tokenizers.load(root / "sentencepiece_bpe"),
            "own_wordpiece": tokenizers.load(root / "wordpiece")}
  for kind, size in (("bytes", 0), ("characters", 0), ("bpe", 300)):
    loaded[f"own_{kind}"] = tokenizers.build(
        config.Tokenizer(kind=kind, size=size), texts)
  loaded["own_sides"] = tokenizers.for_both_sides(
      loaded["own_bytes"], loaded["own_characters"])
  for name, tokenizer in loaded.items():
    tokenizer.save(root / name)
    tokenizer.save(root / f"{name}_sealed")
    sealed.write(root / f"{name}_sealed")


if __name__ == "__main__":
  print(json.dumps(run(*map(int, [*sys.argv[1:], 2000, 0][:2]))))
