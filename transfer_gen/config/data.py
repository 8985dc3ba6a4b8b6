"""Texts: where they come from, how they become tokens, and how models write them."""

import dataclasses
from typing import Annotated

from transfer_gen.config import declare


@declare.strict
@dataclasses.dataclass
class Corrupt:
  """How texts are corrupted before a model reads them; targets of tokens never are.

  What is drawn depends on the seed of the run, the document and the epoch alone.
  Validation and test are corrupted in the same way each time.

  Attributes:
    noise: For a text of a language model, and a model with an encoder: what is done to
      the text that the encoder reads, in this order; the decoder learns to write the
      text itself. `masking` replaces tokens by `<mask>`, `deletion` removes them,
      `infilling` replaces spans of them, also empty ones, by one `<mask>` each, and
      `sentences` shuffles the sentences (BART: Lewis et al., 2020). `spans`, which
      stands alone, replaces spans by sentinels, and the decoder writes the spans behind
      their sentinels (T5: Raffel et al., 2020). `copy`, which stands alone, too, lets
      the encoder read the text as it is: an autoencoder. By default there is no noise,
      and the texts are no pairs.
    density: Share of the tokens that each kind of noise but `sentences` touches, in
      [0, 1]; 0, the default, means 0.3 for `infilling` and 0.15 for all others.
    mean_span: Mean length in tokens of the spans of `infilling` and `spans`, at least
      1. Default: 3.0.
    word_dropout: Share of the tokens of an answer or text that a decoder in training
      reads as unknown, in [0, 1) (Bowman et al., 2016). Default: 0.0.
    stretch: For drawings, what they are also learned with: how far x and y are each
      stretched at most, as a share of their size, in [0, 1) (0.1 in Ha and Eck, 2018).
      Default: 0.0.
    drop_points: For drawings, likewise: share of the points within lines that is left
      out, in [0, 1) (0.1 in Ha and Eck, 2018). Default: 0.0.
  """
  noise: tuple[Annotated[str, declare.OneOf(
      "masking", "deletion", "infilling", "sentences", "spans", "copy")], ...] = ()
  density: declare.Share = 0.0
  mean_span: Annotated[float, declare.Between(1, 2**18)] = 3.0
  word_dropout: declare.Dropout = 0.0
  stretch: declare.Dropout = 0.0
  drop_points: declare.Dropout = 0.0


@declare.strict
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
      `.xz`, or in a `.zip` (`corpora.zip/train.tsv` is one member). Drawings are `.npz`
      or `.ndjson`, see `data.readers.drawings`. Two line-aligned files are written
      `corpus.en|corpus.de`. `a.txt*0.3 + b.txt*0.7` mixes files: of the rows that
      training reads, 30% and 70% are of each. Default: empty.
    validation: The same for validation, without shares. If empty, the default, a part
      of `train` is split off, see `split`, unless its files hold this split as well.
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
    length: T, the number of tokens per row, or of points of a drawing, at least 2.
      Texts of a language model are laid out in rows of this length, see `packing`; for
      longer pairs and drawings see `too_long`. 0 means that length and buckets are
      chosen from the data, see `run.choices`. Default: 128.
    too_long: What happens to pairs with more than `length` tokens: `drop`, the default,
      leaves them out; `cut` cuts the end of the input and, if the target alone takes
      more than half of the row, that of the target; `refuse` is an error. All are
      counted.
    packing: For a language model: `separate`, the default, packs several documents into
      a row, none of which sees another; `joined` makes all documents one running text
      and cuts that into rows, so that predictions also read the documents before.
    reverse: For a language model: whether it reads and writes the tokens of each text
      from the last to the first, from right to left in a script that runs to the right;
      special tokens stay where they are. Prompts are then the ends of texts, and people
      see texts in their own order. Default: False.
    template: For pairs and a model without an encoder: what stands around a prompt and
      its answer. `none`, the default, is `[bos] prompt [sep] answer [eos]`; `chat` is
      the chat template that comes with the tokenizer, and `none` where it has none.
    buckets: For pairs: row lengths in tokens that pairs are padded to, each from 2 to
      `length`, e.g. (32, 64). `length` itself always is a bucket. Default: ().
    corrupt: Noise in what a model reads. By default there is none.
    fraction: Share of the training documents that is used, in (0, 1]. Shares are
      nested: the documents of 0.1 are among those of 0.3. Default: 1.0.
    max_validation: Largest number of documents that validation keeps, chosen like those
      of `fraction`; 0, the default, means no limit.
    max_test: The same for test.
    seed: Seed that picks the documents of `fraction` and of both limits. `Run.seed`
      decides the order in which training reads them. Default: 0.
  """
  name: declare.Filled = "python_docs"
  train: str = ""
  validation: str = ""
  test: str = ""
  input_field: str = ""
  target_field: declare.Filled = "text"
  columns: str = ""
  unit: Annotated[str, declare.OneOf("auto", "line", "paragraph", "file")] = "auto"
  split: Annotated[str, declare.OneOf("auto", "hash", "end")] = "auto"
  # One form for all texts: the same word in two forms would be two sequences of tokens.
  normalize: Annotated[str, declare.OneOf("NFC", "NFKC", "NFD", "NFKD", "none")] = "NFC"
  newline: Annotated[str, declare.OneOf("fold", "keep")] = "fold"
  min_chars: declare.Count = 1
  max_chars: declare.Count = 0
  drop_empty: bool = False
  merge_references: bool = True
  length: Annotated[int, declare.Between(
      2, 2**18, "0 to have it chosen", also=0)] = 128
  too_long: Annotated[str, declare.OneOf("drop", "cut", "refuse")] = "drop"
  packing: Annotated[str, declare.OneOf("separate", "joined")] = "separate"
  reverse: bool = False
  template: Annotated[str, declare.OneOf("none", "chat")] = "none"
  # Each length is a shape of its own, for which every program is compiled once more.
  buckets: tuple[Annotated[int, declare.Between(2, 2**18)], ...] = ()
  corrupt: Corrupt = dataclasses.field(default_factory=Corrupt)
  fraction: Annotated[float, declare.Between(0, 1, ends="(]")] = 1.0
  max_validation: declare.Count = 0
  max_test: declare.Count = 0
  # Not `Run.seed`, which a study varies: its repetitions all read the same documents.
  seed: declare.Seed = 0


@declare.strict
@dataclasses.dataclass
class Tokenizer:
  """How text becomes tokens.

  Attributes:
    kind: `bytes`; `characters` or `bpe`, trained on the training split; `words`: those
      of the training split that occur at least three times, by fastai's rules;
      `strokes`, for drawings: states of a pen, with offsets beside them that are
      divided by the standard deviation of those of the training split; `file`: a
      `tokenizer.json`, a SentencePiece `.model` or the `tokenizer/` folder of a run;
      `alphabet`: the characters of a text file and no special tokens; or `source`: that
      of the run's source. Default: `bpe`.
    size: For `bpe` and `words`: vocabulary size in tokens, special tokens included; at
      least 260, and of `words` the largest. 0 means chosen from the amount of text.
      Default: 2048.
    path: For `file` and `alphabet`: path of the file or folder. Default: empty.
    sentinels: For `bytes`, `characters` and `bpe`: number of sentinels, `<extra_id_0>`
      and so on, that are added for `Data.corrupt`, and with them a `<mask>`; at least
      0. Default: 0.
  """
  kind: Annotated[str, declare.OneOf(
      "bytes", "characters", "bpe", "words", "strokes", "file", "alphabet",
      "source")] = "bpe"
  size: Annotated[int, declare.Between(
      260, 2**24, "0 to have it chosen", also=0)] = 2048
  path: str = ""
  sentinels: Annotated[int, declare.Between(0, 2**16)] = 0


@declare.strict
@dataclasses.dataclass
class Decoding:
  """How a model continues prompts or answers inputs.

  Attributes:
    max_tokens: Largest number of new tokens, the end token included, at least 0; 0, the
      default, means 64 for a language model, and `data.length` for a model of pairs.
    min_tokens: Number of new tokens before a text may end, at least 0. Default: 0.
    beams: Number of beams of a beam search, at least 1; 1, the default, means no
      search.
    num: Number of texts for each input, at least 1, and at most `beams` in a beam
      search. Default: 1.
    length_penalty: For a beam search: exponent of the length by which a text's log
      probability is divided. Default: 1.0.
    early_stopping: For a beam search: when the search of an input stops. `no`, the
      default: as soon as its best running text, scored at its present length, is no
      better than the worst of `beams` ended texts. `yes`: also as soon as `beams` texts
      have ended. `never`: as `no`, with the best score that the text could still reach.
      These are False, True and "never" in Hugging Face Transformers.
    temperature: Logits are divided by it before a token is drawn, at least 0; 0, the
      default, means that the likeliest token is always taken.
    top_k: Number of likeliest tokens that are drawn from, at least 0; 0, the default,
      means all.
    top_p: Tokens are drawn from the smallest set of likeliest ones whose total
      probability reaches this, in (0, 1] (Holtzman et al., 2020). Default: 1.0.
    min_p: Tokens are drawn from those at least this many times as likely as the
      likeliest, in [0, 1] (Nguyen et al., 2025). Default: 0.0.
    repetition_penalty: Positive logits of tokens that occurred before are divided by
      it and negative ones multiplied, above 0 (Keskar et al., 2019). Default: 1.0.
    no_repeat_ngram: Length in tokens of sequences that may not occur twice, at least 0;
      0, the default, allows all.
    first_token: Id of the token that every new text begins with; -1, the default,
      means none.
    last_token: Id of the token that a text of `max_tokens` tokens ends with; -1, the
      default, means none.
    end_tokens: Ids of tokens that end a text. If (), the default, it is the
      tokenizer's eos.
    suppress: Ids of tokens that are never written. Default: ().
    stop: Texts before which a new text is cut off, or behind which if it is written
      from right to left. Default: ().
    too_long: What happens to an input that is longer than the model can read: `report`:
      its answer is empty and the input is counted; `cut`: the input is shortened.
      Default: `report`.
    seed: Seed of what is drawn; from 0 to 2**32 - 1. Default: 0.
  """
  max_tokens: Annotated[int, declare.Between(0, 2**20)] = 0
  min_tokens: Annotated[int, declare.Between(0, 2**20)] = 0
  beams: Annotated[int, declare.Between(1, 2**12)] = 1
  num: Annotated[int, declare.Between(1, 2**12)] = 1
  length_penalty: Annotated[float, declare.Between(-1e3, 1e3)] = 1.0
  early_stopping: Annotated[str, declare.OneOf("no", "yes", "never")] = "no"
  temperature: Annotated[float, declare.Between(0, 1e6)] = 0.0
  top_k: declare.Count = 0
  top_p: Annotated[float, declare.Between(0, 1, ends="(]")] = 1.0
  min_p: declare.Share = 0.0
  repetition_penalty: declare.Positive = 1.0
  no_repeat_ngram: declare.Count = 0
  first_token: declare.NoToken = -1
  last_token: declare.NoToken = -1
  end_tokens: tuple[declare.Count, ...] = ()
  suppress: tuple[declare.Count, ...] = ()
  stop: tuple[declare.Filled, ...] = ()
  too_long: Annotated[str, declare.OneOf("report", "cut")] = "report"
  seed: declare.Seed = 0
