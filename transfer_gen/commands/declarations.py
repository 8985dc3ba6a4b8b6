"""Every command of the command line: what it does, and its flags.

The declarations stand apart from the modules that run the commands, because those
import JAX: `--help`, and a mistyped flag, must not wait for it. The module of a
command has the command's name and a function `run(values)`.
"""

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag:
  """One flag of a command.

  Attributes:
    name: The name, without dashes.
    meaning: What it does, as a full sentence for `--help`.
    value: What stands for the value in `--help`, e.g. N; empty for a boolean flag.
    default: Its type is the type of the flag; None means a value that may be absent.
    kind: Type of the flag if `default` is None; list for text that may be repeated.
    required: Whether the command needs it.
    minimum: The smallest value allowed. If None, the command checks the value.
    maximum: The largest value allowed; likewise.
  """
  name: str
  meaning: str
  value: str = ""
  default: bool | int | float | str | None = None
  kind: type = str
  required: bool = False
  minimum: int | None = None
  maximum: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
  """One command.

  Attributes:
    summary: What it does, in one sentence.
    flags: Its flags, in the order of `--help`.
    argument: What stands for the one word that may follow the command, e.g. NAME; if
      empty, only flags may.
    many: Whether any number of such words may follow it.
    overrides: Whether `--config`, where it is given, is a run, whose fields further
      flags may override (`--config.optim.lr=3e-4`).
    computes: Whether it computes enough to gain from a process with large pages.
  """
  summary: str
  flags: tuple[Flag, ...]
  argument: str = ""
  many: bool = False
  overrides: bool = False
  computes: bool = False


# Flags of several commands are declared once, so that they mean the same in each.
_RUN = Flag(
    name="config", value="FILE.py[:ARG]", required=True,
    meaning="Python file whose function get_config(ARG) returns the run; or"
    " recipe:NAME, see `transfer-gen recipes`.")
_STUDY = Flag(
    name="config", value="FILE.py[:ARG]", required=True,
    meaning="Python file whose function get_study(ARG) returns the study. A file with"
    " get_config alone, or recipe:NAME, is compared with the same run from scratch."
    " --config.runs.NAME.a.b=VALUE overrides a field of one run of a study, and"
    " --config.all.a.b=VALUE that of all its runs.")
_WORKDIR = Flag(
    name="workdir", value="DIR", required=True,
    meaning="Folder of the run, local or on gs:// (extra `gcs`).")
_TRAINED = Flag(
    name="workdir", value="DIR", required=True,
    meaning="Folder of the run, local or on gs:// (extra `gcs`); that of a study or a"
    " search means its best run.")
_MIN_COVERAGE = Flag(
    name="min_coverage", value="SHARE", default=0.0,
    meaning="Refuses a plan that fills a smaller share (0 to 1) of the params from a"
    " source.")
_SOURCE = Flag(
    name="source", value="PATH", required=True,
    meaning="The checkpoint: a run's workdir (or a study's, for its best run), or a"
    " file or folder of another library.")
_STEP = Flag(
    name="step", value="N", default=-1,
    meaning="Step of the checkpoint to read; -1 reads the best one.")
# One flag for each field of `config.Decoding`. A flag that is absent leaves the run's
# own setting.
DECODING = (
    Flag(name="max_tokens", kind=int, value="N", minimum=0,
         meaning="Largest number of new tokens; 0 means 64, or data.length for a model"
         " of pairs."),
    Flag(name="min_tokens", kind=int, value="N", minimum=0,
         meaning="Number of new tokens before a text may end."),
    Flag(name="beams", kind=int, value="N", minimum=1,
         meaning="Beams of a beam search; 1 means none."),
    Flag(name="num", kind=int, value="N", minimum=1,
         meaning="Number of texts for each input; at most --beams in a beam search."),
    Flag(name="length_penalty", kind=float, value="X",
         meaning="A beam's score is divided by its length to the power of X."),
    Flag(name="early_stopping", value="HOW",
         meaning="When a beam search stops: no, yes (when as many texts have ended as"
         " there are beams) or never (before no text could become better)."),
    Flag(name="temperature", kind=float, value="T",
         meaning="Sampling temperature; 0 always takes the likeliest token."),
    Flag(name="top_k", kind=int, value="K", minimum=0,
         meaning="Samples from the K likeliest tokens; 0 means all."),
    Flag(name="top_p", kind=float, value="P",
         meaning="Samples from the likeliest tokens of total probability P."),
    Flag(name="min_p", kind=float, value="P",
         meaning="Samples from tokens at least P times as likely as the likeliest."),
    Flag(name="repetition_penalty", kind=float, value="X",
         meaning="Makes tokens that occurred before less likely; 1 means no less."),
    Flag(name="no_repeat_ngram", kind=int, value="N", minimum=0,
         meaning="No sequence of N tokens occurs twice; 0 allows all."),
    Flag(name="first_token", kind=int, value="ID",
         meaning="Token that each text begins with; -1 means any."),
    Flag(name="last_token", kind=int, value="ID",
         meaning="Token that a text of --max_tokens tokens ends with; -1 means any."),
    Flag(name="end_tokens", value="ID,ID",
         meaning="Tokens that end a text; empty means the tokenizer's end of text."),
    Flag(name="suppress", value="ID,ID", meaning="Tokens that are never written."),
    Flag(name="stop", kind=list, value="TEXT",
         meaning="Text before which an answer is cut off; \\n is a line end. May be"
         " repeated."),
    Flag(name="too_long", value="HOW",
         meaning="What happens to an input that the model cannot read as a whole:"
         " report (its answer is empty) or cut."),
    Flag(name="seed", kind=int, value="N", minimum=0, maximum=2**32 - 1,
         meaning="Seed of what is drawn."))
# The default is spelled out, because importing `sources.REFUSE` would import JAX.
_VOCABULARY = Flag(
    name="vocabulary", value="HOW", default="refuse",
    meaning="What to do with damaged or duplicate entries of the source's vocabulary,"
    " and with tokens that have no row: refuse or repair; none reads weights alone.")
_TOKENIZER = Flag(
    name="tokenizer", value="PATH", default="",
    meaning="Vocabulary of a source that holds none: a tokenizer, a word_index, or a"
    " list of tokens; INPUTS|TARGETS for two alphabets.")
_UNUSED = Flag(
    name="unused", kind=list, value="REGEX",
    meaning="Leaves of a file of another library that are read as if they were not"
    " there, such as 'score.*'. May be repeated.")
_IDLE = Flag(
    name="idle_field", kind=list, value="NAME",
    meaning="A field of the source's config that no map knows, and that changes nothing"
    " which the model computes. May be repeated.")

# In the order in which `--help` lists them.
COMMANDS: Mapping[str, Command] = {
    "plan": Command(
        summary="Shows leaf by leaf what a transfer copies and what is trained; trains"
        " nothing.",
        overrides=True,
        flags=(
            _RUN, _WORKDIR,
            Flag(name="diff", value="DIR",
                 meaning="Prints only the rows that differ from another workdir's."),
            Flag(name="suggest", default=False,
                 meaning="Prints a first plan as Python, from source and model."),
            Flag(name="origins", value="N", default=0, minimum=0,
                 meaning="Also prints where N new entries of each mapped axis start."),
            _MIN_COVERAGE)),
    "train": Command(
        summary="Trains a run, or continues a stopped one from its last checkpoint.",
        overrides=True, computes=True, flags=(
            _RUN, _WORKDIR, _MIN_COVERAGE,
            Flag(name="evaluate", default=False,
                 meaning="Scores the run on its test data when it is trained, as"
                 " `evaluate --workdir=DIR` does; the last line is then of these"
                 " scores."),
            Flag(name="profile", value="STEPS", default=0, minimum=0,
                 meaning="Records so many steps for XProf, after the first two of this"
                 " call, in profile/ of the workdir; 0 records none."),
            Flag(name="coordinator", value="HOST:PORT", default="",
                 meaning="Of several processes that train one run: where all of them"
                 " reach process 0. Left out, JAX finds them on a TPU slice and under"
                 " Slurm."),
            Flag(name="processes", value="N", default=0, minimum=0,
                 meaning="With --coordinator: how many processes there are."),
            Flag(name="process", value="I", default=-1, minimum=-1,
                 meaning="With --coordinator: the number of this one, from 0."))),
    "evaluate": Command(
        summary="Scores a run on its test data or on other texts; the last line is"
        " JSON.",
        computes=True,
        flags=(
            _TRAINED,
            Flag(name="split", value="NAME", default="test",
                 meaning="Split to evaluate: train, validation or test."),
            Flag(name="data", value="FILES", default="",
                 meaning="Other texts to evaluate on, in any form that training reads:"
                 " FILE, INPUTS|TARGETS, or the name of a data set."),
            Flag(name="input_field", value="NAME", default="",
                 meaning="Column of the inputs in --data; by default the run's."),
            Flag(name="target_field", value="NAME", default="",
                 meaning="Column of the targets in --data; by default the run's."),
            Flag(name="documents", value="N", default=0, minimum=0,
                 meaning="Largest number of documents, the first ones; 0 means all."),
            Flag(name="metrics", value="NAMES",
                 meaning="Metrics beside the losses, separated by commas, such as"
                 " bleu,chrf or rouge; by default what suits the documents."),
            Flag(name="against", value="DIR",
                 meaning="Workdir of a run to compare with on the same documents."),
            Flag(name="output", value="FILE",
                 meaning="File for inputs, references and outputs, as JSON lines."),
            Flag(name="samples", value="N", default=0, minimum=0,
                 meaning="Prints N inputs with references and outputs side by side."),
            Flag(name="sheet", value="FILE",
                 meaning="Writes these samples as .html or .md; 20 without --samples."),
            *DECODING, _STEP)),
    "generate": Command(
        summary="Continues prompts, or answers inputs, with the settings of the run and"
        " those given.",
        computes=True,
        flags=(
            _WORKDIR,
            Flag(name="prompt", value="TEXT", kind=list,
                 meaning="Prompt, or what the encoder of a model reads; the answer is"
                 " shown while it is written. May be repeated."),
            Flag(name="prompts", value="FILE",
                 meaning="File of prompts instead: one on each line, also blank ones,"
                 " in which \\n is a line end; or any data file that training reads."),
            Flag(name="output", value="FILE",
                 meaning="File for the answers to --prompts, which continues one that"
                 " was cut: .jsonl with inputs and references, or else a line each. Of"
                 " a model of drawings, a new folder for pictures and points."),
            Flag(name="prior", default=False,
                 meaning="Writes --num texts for latents that are drawn from the prior,"
                 " with a model that has a latent; --seed decides them."),
            Flag(name="interpolate", kind=int, value="N", minimum=2, maximum=10_000,
                 meaning="Writes N texts for latents on a straight line between those"
                 " of two --prompt, both ends included; or draws N times, on an arc"
                 " between two drawings of --prompts."),
            Flag(name="input_field", value="NAME",
                 meaning="Column of the prompts in a table; by default the run's."),
            Flag(name="target_field", value="NAME",
                 meaning="Column of the references in a table; by default the run's."),
            Flag(name="batch_size", value="N", default=64, minimum=1,
                 meaning="Number of texts that are written at a time."),
            *DECODING, _STEP)),
    "study": Command(
        summary="Trains runs and their controls, and compares their test losses.",
        overrides=True, computes=True,
        flags=(
            _STUDY,
            Flag(name="workdir", value="DIR", required=True,
                 meaning="Folder of the study, local or on gs:// (extra `gcs`)."),
            Flag(name="seeds", value="N", default=0, minimum=0,
                 meaning="Repeats the compared runs with seeds 0 to N - 1; 0 keeps the"
                 " study's own."),
            Flag(name="fractions", value="F,F", default="",
                 meaning="Repeats the compared runs with these shares of their training"
                 " data, such as 0.03,0.1,1, as NAME_3, NAME_10 and NAME_100; empty"
                 " keeps what the study says."),
            Flag(name="budget", value="BUDGET", default="",
                 meaning="`converged` also compares with controls that train until"
                 " their validation loss no longer falls, `equal` does not; empty keeps"
                 " what the study says."),
            Flag(name="equal", value="UNIT", default="",
                 meaning="What the runs of a pair have equally much of: `steps`,"
                 " `tokens` or `flops`; empty keeps what the study says."),
            Flag(name="dry_run", default=False,
                 meaning="Checks all runs and prints what would be trained, with steps,"
                 " tokens, FLOPs and an estimate of the time; writes nothing."),
            Flag(name="only", value="PATTERN", default="",
                 meaning="Trains only the runs whose NAME or NAME/seed_S matches, such"
                 " as 'scratch*' or '*/seed_0', and their sources. A pair is compared"
                 " once all of its runs are there."),
            Flag(name="jobs", value="N", default=1, minimum=1,
                 meaning="Number of trainings at once, each in a process of its own"
                 " with a log, training.log, in its workdir."),
            Flag(name="force", default=False,
                 meaning="Trains runs anew whose config has changed, and all that start"
                 " from them; the old ones get another name."),
            Flag(name="results", value="FILE.md",
                 meaning="Markdown file that receives a section with the results."))),
    "choose": Command(
        summary="Ranks sources for a run by what they bring before and after a few"
        " steps.",
        overrides=True, computes=True,
        flags=(
            _RUN,
            Flag(name="workdir", value="DIR", required=True,
                 meaning="Folder for the evidence, choose.json, and for chosen.py, the"
                 " config of the run that comes first; local or on gs:// (extra"
                 " `gcs`)."),
            Flag(name="sources", value="PATH", kind=list, required=True,
                 meaning="Checkpoints to start from, as --config.source.path takes"
                 " them, joined by commas, or one for each --sources; two at least."),
            Flag(name="steps", value="N", default=0, minimum=0,
                 meaning="Trains N steps from each source and from scratch, and ranks"
                 " by the validation loss then; 0 ranks by that before any step."))),
    "compare": Command(
        summary="Compares runs that have trained, each with the last one, or studies,"
        " in a report.",
        argument="DIR DIR ...", many=True, computes=True,
        flags=(
            Flag(name="output", value="DIR", default="comparison",
                 meaning="Folder to write, which must not exist yet: report.html,"
                 " results.csv, pairs.csv and results.json. A run is called as its"
                 " folder is, or NAME if NAME=DIR is given in place of DIR. Of studies"
                 " alone, the report says which measures before training foretold"
                 " their gains, and there are no tables."),
            Flag(name="samples", value="N", default=3, minimum=0,
                 meaning="Number of prompts of the test split that each run continues"
                 " for the report."))),
    "recipes": Command(
        summary="Lists config files for common jobs, prints or copies one.",
        argument="NAME",
        flags=(
            Flag(name="copy", value="FILE.py",
                 meaning="Writes the recipe to this file, as a config to edit."),)),
    "inspect": Command(
        summary="Lists the leaves of any checkpoint, or shows rows of a run's data.",
        overrides=True,
        flags=(
            dataclasses.replace(_SOURCE, required=False),
            Flag(name="data", default=False,
                 meaning="Shows rows of the data of --config as the model sees them:"
                 " inputs and targets, with special tokens, noise and what counts."),
            dataclasses.replace(_RUN, required=False),
            Flag(name="split", value="NAME", default="train",
                 meaning="With --data: the split, train, validation or test."),
            Flag(name="rows", value="N", default=3, minimum=1,
                 meaning="With --data: number of rows."),
            Flag(name="map", value="NAME", default="",
                 meaning="Lists the leaves under the names of transfer_gen: name or"
                 " file of the map, or auto to detect it from the files."),
            Flag(name="output", value="FILE.json",
                 meaning="With --map: writes that map to a new file, to edit and give"
                 " as --map or source.map; also a map that does not fit yet."),
            _VOCABULARY, _TOKENIZER, _UNUSED, _IDLE, _STEP)),
    "convert": Command(
        summary="Writes a checkpoint in another format, completely or not at all.",
        flags=(
            _SOURCE,
            Flag(name="map", value="NAME", default="",
                 meaning="Architecture to read from another library or to write to it,"
                 " or file of a map; detected if empty."),
            Flag(name="output", value="DIR", required=True,
                 meaning="Folder to write, which must not exist yet."),
            Flag(name="to", value="FORMAT", default="orbax",
                 meaning="Format to write: orbax (a workdir), safetensors (for"
                 " Transformers), keras, or peft (the adapters alone; the other formats"
                 " merge them)."),
            Flag(name="dtype", value="DTYPE", default="",
                 meaning="With --to=safetensors: float32, bfloat16 or float16,"
                 " to which numbers are rounded; one that is too large for float16 is"
                 " an error. By default a checkpoint that goes back to the library that"
                 " it came from keeps its own, and all others are float32."),
            _STEP, _VOCABULARY, _TOKENIZER, _UNUSED, _IDLE)),
}
