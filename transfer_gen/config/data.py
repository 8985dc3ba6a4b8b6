"""Texts and tokenizers: where documents come from and how they become tokens."""

import dataclasses


@dataclasses.dataclass
class Data:
  r"""Where text comes from and how it becomes rows of tokens.

  Attributes:
    name: `python_docs`, `docstring_summary`, `cldr_translation/en-de` with the codes of
      any two languages, another TFDS data set (`tfds:NAME`), or `files` for the paths
      below. Default: `python_docs`.
    train: For `files`, which needs it: paths of the training data, separated by commas;
      globs are allowed. Files are plain text (`.txt`, see `unit`), `.jsonl`, `.json`,
      `.csv`, `.tsv`, `.tmx`, `.parquet` or `.arrow`, each also with `.gz`, `.bz2` or
      `.xz`, or in a `.zip` (`corpora.zip/train.tsv` is one member). Two line-aligned
      files are written `corpus.en|corpus.de`. `a.txt*0.3 + b.txt*0.7` mixes files: of
      the rows that training reads, 30% and 70% are of each. Default: empty.
    validation: The same for validation, without shares. If empty, the default, a part
      of `train` is split off, see `split`.
    test: The same for the test split.
    input_field: Column of a pair's input. If empty, the default, the data is for a
      language model and only `target_field` is read. Dots lead into nested columns
      (`translation.en`); a list of texts is joined by spaces. The columns of `.tmx` are
      codes of languages.
    target_field: Column of the text that the model learns to write. A list of texts
      gives a pair several right answers: each is trained on, and validation and test
      keep them as references of one document. Default: `text`.
    columns: Names of the columns of `.csv` and `.tsv` files without a header,
      separated by commas, such as `en,de`. If empty, the default, the first line of a
      file names them.
    unit: What one document is in plain text: `line`, `paragraph` (paragraphs end at
      blank lines), `file`, or `auto`, the default: decided by the training text and
      printed; the data page of the documentation gives the rule.
    split: How validation and test are split off `train` where they are missing: `hash`,
      a tenth of the documents each, chosen by their texts; `end`, the last tenth and
      the one before; or `auto`, the default: `end` for fewer than 20 documents. Fewer
      than 10 whole files are each divided at their ends, and tested in documents of
      about 1,000 characters.
    normalize: Unicode normal form: `NFC`, `NFKC`, `NFD`, `NFKD` or `none`.
      Default: `NFC`.
    newline: `fold`: \r\n and \r become \n, and white space at ends of lines and blank
      lines around a document are removed. `keep`: all of it stays, and so does the line
      end (or the blank lines) that ends a document. Default: `fold`.
    min_chars: Documents with fewer characters are dropped and counted; so are pairs
      with a shorter side. At least 0. Default: 1.
    max_chars: Documents with more characters are dropped and counted; so are pairs with
      a longer side. At least `min_chars`; 0, the default, means no limit.
    drop_empty: Whether pairs with an empty input or target, or in which one of both
      columns is missing, are dropped and counted. By default they are an error that
      lists their lines.
    merge_references: Whether pairs of validation or test with the same input become one
      document with several references. Default: True.
    length: T, the number of tokens per row, at least 2. Texts of a language model are
      laid out in rows of this length, see `packing`; for longer pairs see `too_long`. 0
      means that length and buckets are chosen from the data, see `run.choices`.
      Default: 128.
    too_long: What happens to pairs with more than `length` tokens: `drop`, the default,
      leaves them out; `cut` cuts the end of the input and, if the target alone takes
      more than half of the row, that of the target; `refuse` is an error. All are
      counted.
    packing: For a language model: `separate`, the default, packs several documents into
      a row, none of which sees another; `joined` makes all documents one running text
      and cuts that into rows, so that predictions also read the documents before.
    template: For pairs and a model without an encoder: what stands around a prompt and
      its answer. `none`, the default, is `[bos] prompt [sep] answer [eos]`; `chat` is
      the chat template that comes with the tokenizer, and `none` where it has none.
    buckets: For pairs: row lengths in tokens that pairs are padded to, each from 2 to
      `length`, e.g. (32, 64). `length` itself always is a bucket. Default: ().
    fraction: Share of the training documents that is used, in (0, 1]. Shares are
      nested: the documents of 0.1 are among those of 0.3. Default: 1.0.
    max_validation: Largest number of documents that validation keeps, chosen like those
      of `fraction`; 0, the default, means no limit.
    max_test: The same for test.
    seed: Seed that picks the documents of `fraction` and of both limits. `Run.seed`
      decides the order in which training reads them. Default: 0.
  """
  name: str = "python_docs"
  train: str = ""
  validation: str = ""
  test: str = ""
  input_field: str = ""
  target_field: str = "text"
  columns: str = ""
  unit: str = "auto"
  split: str = "auto"
  # One form for all texts: the same word in two forms would be two sequences of tokens.
  normalize: str = "NFC"
  newline: str = "fold"
  min_chars: int = 1
  max_chars: int = 0
  drop_empty: bool = False
  merge_references: bool = True
  length: int = 128
  too_long: str = "drop"
  packing: str = "separate"
  template: str = "none"
  # Each length is a shape of its own, for which every program is compiled once more.
  buckets: tuple[int, ...] = ()
  fraction: float = 1.0
  max_validation: int = 0
  max_test: int = 0
  # Not `Run.seed`, which a study varies: its repetitions all read the same documents.
  seed: int = 0


@dataclasses.dataclass
class Tokenizer:
  """How text becomes tokens.

  Attributes:
    kind: `bytes`; `characters` or `bpe`, trained on the training split; `file`: a
      `tokenizer.json`, a SentencePiece `.model` or the `tokenizer/` folder of a run;
      `alphabet`: the characters of a text file and no special tokens; or `source`: that
      of the run's source. Default: `bpe`.
    size: For `bpe`: vocabulary size in tokens, special tokens included; at least 260.
      0 means chosen from the amount of text. Default: 2048.
    path: For `file` and `alphabet`: path of the file or folder. Default: empty.
  """
  kind: str = "bpe"
  size: int = 2048
  path: str = ""
