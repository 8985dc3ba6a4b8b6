"""Texts and tokenizers: where documents come from and how they become tokens."""

import dataclasses


@dataclasses.dataclass
class Data:
  r"""Where text comes from and how it becomes rows of tokens.

  Attributes:
    name: `python_docs`, `docstring_summary`, another TFDS data set (`tfds:NAME`), or
      `files` for the paths below. Default: `python_docs`.
    train: For `files`, which needs it: paths of the training data, comma-separated
      globs of `.txt` (one document per line; see `paragraphs` and `whole_files`),
      `.jsonl`, `.csv` or `.tsv`. Two line-aligned files are written
      `corpus.en|corpus.de`. Default: empty.
    validation: The same for validation. If empty, the default, a part of `train` is
      split off by hash.
    test: The same for the test split. If empty, the default, a part of `train` is split
      off by hash.
    input_field: Column of a pair's input. If empty, the default, the data is for a
      language model and only `target_field` is read.
    target_field: Column of the text that the model learns to write. Default: `text`.
    whole_files: For plain text: whether each file is one document. Default: False.
    paragraphs: For plain text: whether documents end at blank lines and not at the end
      of each line. Default: False.
    normalize: Unicode normal form: `NFC`, `NFKC`, `NFD`, `NFKD` or `none`.
      Default: `NFC`.
    newline: `fold`: \r\n and \r become \n, and white space at ends of lines and blank
      lines around a document are removed. `keep`: all of it stays, and so does the line
      end (or the blank lines) that ends a document. Default: `fold`.
    min_chars: Documents with fewer characters are dropped and counted; so are pairs
      with a shorter side. At least 0. Default: 1.
    max_chars: Documents with more characters are dropped and counted; so are pairs with
      a longer side. At least `min_chars`; 0, the default, means no limit.
    length: T, the number of tokens per row, at least 2. Texts of a language model are
      packed into rows of this length; pairs with more tokens are dropped and counted.
      Default: 128.
    buckets: For pairs: row lengths in tokens that pairs are padded to, each from 2 to
      `length`, e.g. (32, 64). `length` itself always is a bucket. Default: ().
    fraction: Share of the training documents that is used, in (0, 1]. Shares are
      nested: the documents of 0.1 are among those of 0.3. Default: 1.0.
    seed: Seed that picks the documents of `fraction`. `Run.seed` decides the order in
      which training reads them. Default: 0.
  """
  name: str = "python_docs"
  train: str = ""
  validation: str = ""
  test: str = ""
  input_field: str = ""
  target_field: str = "text"
  whole_files: bool = False
  paragraphs: bool = False
  # One form for all texts: the same word in two forms would be two sequences of tokens.
  normalize: str = "NFC"
  newline: str = "fold"
  min_chars: int = 1
  max_chars: int = 0
  length: int = 128
  # Each length is a shape of its own, for which every program is compiled once more.
  buckets: tuple[int, ...] = ()
  fraction: float = 1.0
  # Not `Run.seed`, which a study varies: its repetitions all read the same documents.
  seed: int = 0


@dataclasses.dataclass
class Tokenizer:
  """How text becomes tokens.

  Attributes:
    kind: `bytes`; `characters` or `bpe`, trained on the training split; `file`: a
      `tokenizer.json`, a SentencePiece `.model` or the `tokenizer/` folder of a run; or
      `alphabet`: the characters of a text file and no special tokens. Default: `bpe`.
    size: For `bpe`: vocabulary size in tokens, special tokens included; at least 260.
      Default: 2048.
    path: For `file` and `alphabet`: path of the file or folder. Default: empty.
  """
  kind: str = "bpe"
  size: int = 2048
  path: str = ""
