"""Writes documents in each format that training reads, with the libraries of others."""

import bz2
import csv
import gzip
import io
import json
import lzma
from xml.sax import saxutils
import zipfile

import pyarrow as pa
from pyarrow import feather
from pyarrow import parquet


def json_lines(rows):
  return "".join(json.dumps(row) + "\n" for row in rows).encode()


def json_array(rows):
  return json.dumps(rows, ensure_ascii=False, indent=1).encode()


def comma_separated(rows):
  file = io.StringIO(newline="")
  writer = csv.DictWriter(file, list(rows[0]))
  writer.writeheader()
  writer.writerows(rows)
  return file.getvalue().encode()


def tab_separated(rows):
  lines = [list(rows[0]), *([row[name] for name in rows[0]] for row in rows)]
  return "".join("\t".join(line) + "\n" for line in lines).encode()


def parquet_file(rows):
  file = io.BytesIO()
  parquet.write_table(pa.Table.from_pylist(rows), file)
  return file.getvalue()


def arrow_file(rows):
  table, file = pa.Table.from_pylist(rows), io.BytesIO()
  with pa.ipc.new_file(file, table.schema) as writer:
    writer.write_table(table)
  return file.getvalue()


def arrow_stream(rows):
  table, file = pa.Table.from_pylist(rows), io.BytesIO()
  with pa.ipc.new_stream(file, table.schema) as writer:
    writer.write_table(table)
  return file.getvalue()


def feather_file(rows):
  file = io.BytesIO()
  feather.write_feather(pa.Table.from_pylist(rows), file)
  return file.getvalue()


def translation_memory(rows):
  units = "".join(
      "<tu>" + "".join(
          f'<tuv xml:lang="{code}"><seg>{saxutils.escape(text)}</seg></tuv>'
          for code, text in row.items()) + "</tu>\n" for row in rows)
  return ('<?xml version="1.0" encoding="UTF-8"?>\n'
          '<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4">'
          '<header srclang="en"/>'
          f"<body>{units}</body></tmx>").encode()


def zipped(members):
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, data in members.items():
      archive.writestr(name, data)
  return file.getvalue()


STRUCTURED = {
    ".jsonl": json_lines, ".json": json_array, ".csv": comma_separated,
    ".tsv": tab_separated, ".parquet": parquet_file, ".arrow": arrow_file,
    ".feather": feather_file, ".tmx": translation_memory}
COMPRESSED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
