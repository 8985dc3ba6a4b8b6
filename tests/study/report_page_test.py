"""Tests that the page of a study is whole, safe and readable wherever it is opened."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess

from lxml import html
import pytest

from tests.study import found
from transfer_gen.run import page as page_lib
from transfer_gen.run import plots
from transfer_gen.study import every_training
from transfer_gen.study import foretold
from transfer_gen.study import report_csv
from transfer_gen.study import report_page
from transfer_gen.study import report_plots
from transfer_gen.study import report_rows

_SCRIPT = "<script>alert(1)</script>\ud800"
# What makes a browser ask the network, beside elements.
_LOADS = re.compile(r"@import|url\(\s*['\"]?(?!#)")
_ADDRESSES = ("src", "href", "srcset", "data", "action", "poster", "background")


def _effective(**changes):
  return {"method": "interpolation", "amount": 60.0, "low": None, "high": 90.0,
          "bound": "", "smallest": 30.0, "largest": 100.0, "amounts": 2,
          "unit": "bytes", "own": 10, "transferred": 50.0,
          "controls": ["few", "all"], "interpolated": 60.0} | changes


@pytest.fixture(scope="module", name="text")
def _text(tmp_path_factory):
  """Makes a page with all that a page can have."""
  folder = tmp_path_factory.mktemp("page")
  data = lambda size: {"bytes": size, "tokens": size}
  runs = {name: [found.run(seed, train_data=data(size), accounts=found.account(1),
                           samples=[{"prompt": _SCRIPT, "reference": _SCRIPT,
                                     "text": _SCRIPT}]) for seed in (0, 1)]
          for name, size in (("mov<ed>", 10), ("few", 30), ("all", 100))}
  (folder / "samples.svg").write_text('<svg xmlns="x"><script>1</script></svg>')
  runs["mov<ed>"][0]["pictures"] = "samples.svg"
  effective = {"few": _effective(), "all": _effective(amount=None, bound=">")}
  pairs = [found.pair(treated="mov<ed>", control=name, effective_data=one,
                      transfer=found.transfer()) for name, one in effective.items()]
  facts = found.facts(
      runs=runs, comparisons=pairs, foretold=foretold.correlate(pairs))
  curves = found.with_workdirs(folder, facts)
  for lines in curves["mov<ed>"].values():
    for line in lines:
      line |= {"remembered": 2.0, "chrf": 30.0}
  return report_page.study_page(facts, curves, folder)


@pytest.fixture(scope="module", name="root")
def _root(text):
  return html.document_fromstring(text)


def _shown(element):
  return " ".join(element.text_content().split())


def test_nothing_in_a_page_asks_the_network_or_runs(text, root):
  for element in root.iter():
    for name, value in element.attrib.items():
      assert not name.startswith("on")
      if name.rpartition(":")[2] in _ADDRESSES:
        # Only other pages may lie elsewhere, beside this one.
        assert value.startswith(("#", "data:image/")) or (
            element.tag == "a" and ":" not in value), value
  assert not root.xpath("//script | //link | //iframe | //object | //embed | //base")
  assert not _LOADS.search(text) and "http" not in text.replace("http-equiv", "")
  [policy] = root.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
  assert policy.startswith("default-src 'none'; ")


def test_the_answer_comes_first_and_the_parts_in_the_order_of_their_weight(root):
  assert _shown(root.xpath("//h1/following-sibling::*")[0]).startswith(
      "mov<ed> against few: +0.2500 nats per token (95% interval +0.1250 to +0.3750")
  assert [_shown(title) for title in root.xpath("//h2")] == [
      "Runs", "Gains", "Learning curves", "Learning curves of the sources",
      "Effective data", "Forgetting", "Before training", "Costs",
      "Samples of the test split", "Drawings",
      "Transfer plans", "Where these numbers come from"]
  assert [_shown(title) for title in root.xpath("//h3")] == [
      "Validation loss", "Validation, chrf", "Validation loss of the sources",
      "Data efficiency", "Forgetting of the source's text", "Gain against forgetting",
      "How far each layer moved", "Environment"]
  assert "transfer-gen study --config=a.py" in [
      _shown(one) for one in root.xpath("//pre[@class='command']")]


def test_each_number_has_its_command(tmp_path):
  facts = found.facts(command="transfer-gen study --config=a.py --workdir='a b'")
  found.with_workdirs(tmp_path, facts)

  header, *rows = report_rows.commands(facts, "a b")

  assert header == ("numbers", "command") and len(rows) == 2 * 4
  assert rows[:2] == [
      ("moved, seed 0: training and validation",
       f"{facts['command']} --only=moved/seed_0"),
      ("moved, seed 0: test", "transfer-gen evaluate --workdir='a b/moved/seed_0'")]
  # What others have trained is only tested.
  facts["command"] = "transfer-gen compare a b"
  assert [name for name, _ in report_rows.commands(facts, "a")][1:3] == [
      "moved, seed 0: test", "moved, seed 1: test"]


def test_behind_every_plot_stands_a_table_with_its_numbers(root):
  figures = root.xpath("//figure[div[@class='plot']]")

  assert len(figures) == len(root.xpath("//svg[@role='img']")) == 7
  for figure in figures:
    [table] = figure.xpath("details//table")
    cells = [_shown(cell) for cell in table.xpath(".//td")]
    assert len(table.xpath(".//tr")) > 1 and cells
    title = figure.xpath(".//svg/@aria-label")[0]
    assert title in _shown(figure.xpath(".//summary")[0])
  rows = [[[_shown(cell) for cell in row] for row in figure.xpath("details//tr")]
          for figure in figures[1:]]  # Behind the gains.
  assert rows[0][:2] == [["", "step 30", "step 60", "step 90"],
                         ["mov<ed>, seed 0", "2.66667", "2.33333", "2"]]
  assert [row[0] for row in rows[0][2:]] == [
      "mov<ed>, seed 1", "few, seed 0", "few, seed 1", "all, seed 0", "all, seed 1"]
  assert rows[2] == [["", "step 5"], ["source, seed 0", "1.5"]]
  data = rows[3]
  assert data[1] == ["few", "30", "1.25", "1.25 1.25", "", ""]
  assert data[3] == ["mov<ed>", "10", "1.25", "1.25 1.25", "60", "to 90"]


def test_marks_of_curves_and_gains_have_texts_with_run_step_and_value(root):
  said = lambda title: [one.text for one in root.xpath(
      f"//svg[@aria-label='{title}']//*[local-name()='use']/*[local-name()='title']")]

  # A name of a run, a seed, and three validations of each.
  assert said("Validation loss")[:3] == [
      f"mov<ed>, seed 0, step {step}: {plots.number(3 - step / 90)}"
      for step in (30, 60, 90)]
  assert len(said("Validation loss")) == 3 * 6
  assert said("Gains") == [
      f"mov<ed> against {name}: 0.25 nats per token, 95% interval 0.125 to 0.375"
      for name in ("few", "all")]
  assert said("Gain against forgetting")[1] == (
      "mov<ed> against few, seed 1: gain 0, forgetting 0.5")


def test_a_page_has_the_measures_before_training_and_how_far_layers_moved(root):
  [title] = root.xpath("//h2[.='Before training']")
  first, second = (
      [[_shown(cell) for cell in row] for row in table]
      for table in title.xpath("following-sibling::div[position() < 3]//table"))
  said = [_shown(one) for one in title.xpath("following-sibling::p")]

  assert first[1] == ["mov<ed>, few", "3.2500", "75.0%", "-", "+0.5000", "100.0%",
                      "0.875", "+0.2500"]
  assert second == [["layer", "mov<ed>"], ["0", "-"], ["1", "0.875 (source 0)"]]
  assert "mov<ed>, few; mov<ed>, all: no alignment: it is <unknown>." in said
  assert "Too few pairs to say which measure foretells a gain: 2 of" in " ".join(said)


def test_a_power_law_is_drawn_and_written_where_the_effective_data_come_from_it():
  data = {"few": 30, "all": 120, "moved": 10}
  runs = {name: [found.run(0, train_data={"bytes": size})]
          for name, size in data.items()}
  law = {"scale": 30.0, "exponent": 1.0, "floor": 0.5,
         "scale_error": 2.5, "exponent_error": 0.125, "floor_error": None}
  pair = found.pair(control="few", effective_data=_effective(
      law=law, largest=120.0, amount=40.0, interpolated=45.0))

  [plain] = report_plots.efficiency(found.facts(runs=runs, comparisons=[
      pair | {"effective_data": _effective(largest=120.0, amount=40.0)}]))
  [plot] = report_plots.efficiency(found.facts(runs=runs, comparisons=[pair]))

  assert plot.note.endswith("the power law 30 * amount ** -1 + 0.5.")
  assert [*plot.table[0][4:], *plot.table[3][4:]] == [
      "effective data", "95% interval", "interpolated", "40", "to 90", "45"]
  assert plot.table[4:] == [
      ["", "power law", "standard error"], ["scale", "30", "2.5"],
      ["exponent", "1", "0.125"], ["floor", "0.5", "unknown"]]
  assert "interpolated" not in plain.table[0] and len(plain.table) == 4
  amounts, losses = report_plots._law(pair["effective_data"])
  assert (amounts[0], losses[0]) == (30, 1.5)
  assert (amounts[-1], losses[-1]) == (pytest.approx(120), pytest.approx(0.75))
  dashed = [one.picture.count("stroke-dasharray") for one in (plain, plot)]
  assert dashed == [1, 2]  # The way to the mark; and the law.


def test_amounts_at_a_logarithmic_axis_are_plain_numbers():
  data = {"few": 900, "all": 200000, "moved": 1000}
  runs = {name: [found.run(0, train_data={"bytes": size})]
          for name, size in data.items()}
  pair = found.pair(control="few", effective_data=_effective(
      smallest=900.0, largest=2e5, own=1000.0, amount=4e4))

  [plot] = report_plots.efficiency(found.facts(runs=runs, comparisons=[pair]))

  assert ">100,000</text>" in plot.picture and ">1,000</text>" in plot.picture
  assert "math" not in plot.picture and "$" not in plot.picture


def test_texts_of_documents_and_names_of_runs_are_shown_as_they_are(text, root):
  shown = [cell.text_content() for cell in root.xpath("//table[@class='texts']//td")]

  assert shown == ["<script>alert(1)</script>?"] * 5
  for name in ("mov<ed>", "few", "all"):
    assert name in [_shown(cell) for cell in root.xpath("//table//td[1]")]
    assert name in [_shown(item) for item in root.xpath("//ul[@class='legend']/li")]
    assert root.xpath(f"//summary[contains(., '{name}')]")
  assert "mov<ed>" not in text and "<it>" not in text


def test_drawings_are_images_inside_of_the_page(root):
  [image] = root.xpath("//img")

  kind, _, data = image.get("src").partition(",")
  assert kind == "data:image/svg+xml;base64"
  assert base64.b64decode(data) == b'<svg xmlns="x"><script>1</script></svg>'


def test_each_run_links_to_its_page_its_plan_and_its_config(root):
  rows = root.xpath("//h2[.='Runs']/following-sibling::div[1]//tr[td]")

  assert len(rows) == 6
  assert [link.get("href") for link in rows[0].xpath(".//a")] == [
      f"mov%3Ced%3E/seed_0/{name}"
      for name in ("report.html", "plan.json", "config.json")]
  assert "source/plan.json" in root.xpath("//a/@href")


def test_an_audit_that_several_trainings_have_is_shown_once(root):
  [audit] = root.xpath("//h2[.='Transfer plans']/following-sibling::details"
                        "[following-sibling::h2]")

  assert _shown(audit.xpath("summary")[0]) == "mov<ed>, few, all, source (7 trainings)"
  assert "old<1>/w" in _shown(audit.xpath(".//table")[0])


def test_colors_of_curves_read_on_white_and_on_black():
  def luminance(color):
    parts = [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
              for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))

  style = page_lib.render("style.css")
  dark = re.search(r"dark\)\{:root\{[^}]*--paper:(#[0-9a-f]{6})", style)[1]
  for color in plots.COLORS:
    assert 1.05 / (luminance(color) + 0.05) >= 3
    assert (luminance(color) + 0.05) / (luminance(dark) + 0.05) >= 3


def test_plots_have_the_color_of_the_text_around_them(root):
  for picture in root.xpath("//svg[@role='img']"):
    text = html.tostring(picture).decode()
    assert "currentColor" in text and picture.xpath(".//text")
    colors = {*re.findall("#[0-9a-fA-F]{6}", text)}
    assert colors <= {*plots.COLORS}, colors
  # What a picture refers to must be its own, and of one page.
  names = root.xpath("//*[@id]/@id")
  assert len(names) == len(set(names)) > 0


def test_a_page_fits_a_telephone_and_paper(root):
  assert root.xpath("//meta[@name='viewport']/@content") == [
      "width=device-width, initial-scale=1"]
  for table in root.xpath("//table"):
    assert table.getparent().get("class") == "scroll"
  [style] = root.xpath("//style/text()")
  assert ".scroll{overflow-x:auto" in style
  assert ".scroll,.plot{overflow:visible}" in style


_CHROMIUM = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome", "chrome"))), None)
# The window of a browser without a screen is 500 pixels wide at least, and a frame may
# be narrower. The page itself allows no script, and the one of this page measures it.
_WRAPPER = """<!DOCTYPE html>
<iframe src="page.html" style="border:0;height:800px;width:{width}px"></iframe>
<pre></pre><script>
document.querySelector("iframe").onload = event => {{
  const inside = event.target.contentDocument, root = inside.documentElement
  inside.querySelectorAll("details").forEach(one => one.open = true)
  const wide = [...inside.body.querySelectorAll("*")].filter(
    one => one.getBoundingClientRect().right > root.clientWidth + 1)
  const view = event.target.contentWindow
  const shown = (figure, name) => [...figure.querySelectorAll("g." + name)].map(
    one => view.getComputedStyle(one).display !== "none")
  const box = inside.querySelector("input.curve1"), figure = box.closest("figure")
  const before = [shown(figure, "curve0"), shown(figure, "curve1")]
  box.click()
  document.querySelector("pre").textContent = JSON.stringify({{
    frame: view.innerWidth,
    before: before, after: [shown(figure, "curve0"), shown(figure, "curve1")],
    room: root.clientWidth, needed: root.scrollWidth, scrolled: wide.length,
    wide: wide.filter(one => !one.parentElement.closest(".scroll, .plot")).map(
      one => one.outerHTML.slice(0, 80))}})
}}</script>"""


def _browser(*words):
  command = [_CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *words]
  return subprocess.run(
      command, check=True, capture_output=True, text=True, timeout=60).stdout


def _measured(folder, text, width):
  """Shows a page in a frame of a width in pixels, and returns what a script found."""
  (folder / "page.html").write_text(text)
  (folder / "wrapper.html").write_text(_WRAPPER.format(width=width))
  shown = _browser("--allow-file-access-from-files", "--dump-dom",
                   (folder / "wrapper.html").as_uri())
  return json.loads(html.document_fromstring(shown).xpath("//pre")[-1].text)


@pytest.mark.skipif(_CHROMIUM is None, reason="no chromium is installed")
@pytest.mark.parametrize("width", [360, 1200])
def test_in_a_browser_only_what_scrolls_is_wider_than_the_page(text, tmp_path, width):
  found_here = _measured(tmp_path, text, width)

  assert found_here["frame"] == width
  assert found_here["wide"] == []
  assert found_here["needed"] == found_here["room"] > 0.9 * width
  # On a telephone, tables and plots do not fit, and so have to scroll.
  assert (found_here["scrolled"] > 0) == (width == 360)
  # A curve whose box is no longer checked is hidden, and the others stay.
  first, second = found_here["before"]
  assert first and second and all(first + second)
  assert found_here["after"] == [first, [False] * len(second)]


@pytest.mark.skipif(_CHROMIUM is None, reason="no chromium is installed")
def test_a_browser_prints_the_page(text, tmp_path):
  (tmp_path / "page.html").write_text(text)

  _browser(f"--print-to-pdf={tmp_path / 'page.pdf'}", (tmp_path / "page.html").as_uri())

  printed = (tmp_path / "page.pdf").read_bytes()
  assert printed.startswith(b"%PDF-") and len(printed) > 10_000
  assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 2


def test_a_page_of_two_hundred_runs_can_be_sent_by_mail(tmp_path):
  runs = {f"a run of some name, {i}": [found.run(0, accounts=found.account(1))]
          for i in range(200)}
  names = [*runs]
  facts = found.facts(runs=runs, comparisons=[
      found.pair(treated=name, control=names[-1]) for name in names[:-1]])
  curves = found.with_workdirs(tmp_path, facts)
  for i, group in enumerate(curves.values()):
    group["seed 0"] = [
        {"step": step + i % 3, "split": "validation", "loss": 3 - step / (99 + i),
         "chrf": step / 7, "remembered": 2 + step / 9} for step in range(10, 510, 10)]

  text = report_page.study_page(facts, curves, tmp_path)

  assert len(text.encode()) <= 5_000_000
  # So many points have no marks and no texts, only the rows of a table.
  assert "<title>a run of some name, 0 against a run of some name, 199: 0.25" in text
  assert "step 10: " not in text
  assert all(f"<td>{name}</td>" in text for name in names)


def test_a_page_is_the_same_whenever_it_is_made(tmp_path):
  facts = found.facts()
  curves = found.with_workdirs(tmp_path, facts)

  first, second = (report_page.study_page(facts, curves, tmp_path) for _ in range(2))

  assert first == second


def test_the_table_has_a_line_for_each_training(tmp_path):
  facts = found.facts()
  found.with_workdirs(tmp_path, facts)
  facts["runs"]["moved"][0]["metrics"] = {"chrf": 12.125, "intervals": {}}
  facts["trainings"][1]["role"] = "tried"

  report_csv.write(tmp_path, facts)

  rows = [*csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text()))]
  assert rows[0] == {
      "run": "moved", "seed": "0", "lr": "0.003", "fraction": "1.0", "steps": "90",
      "best_step": "40", "validation_loss": "2.5", "test_loss": "2.0",
      "bits_per_byte": "1.25", "chrf": "12.125", "train_tokens": "123456",
      "train_seconds": "12.6", "role": "compared", "workdir": "moved/seed_0"}
  assert [row["run"] for row in rows] == ["moved", "moved", "scratch", "scratch",
                                          "source"]
  assert [row["test_loss"] for row in rows] == ["2.0", "", "2.0", "2.125", ""]
  assert list(tmp_path.glob("results.csv*")) == [tmp_path / "results.csv"]


def test_a_table_has_a_line_for_each_comparison(tmp_path):
  bits = {"gain": 0.5, "low": 0.25, "high": 0.75, "documents": 7, "seeds": 2,
          "seeds_ahead": 2, "p": 0.03125}
  drawn = found.pair(control="drawn", reached=[10, 30], p=0.25, low=-0.5, high=1.0)
  del drawn["bits_per_byte"]
  facts = found.facts(comparisons=[
      found.pair(
          p=0.0625, alarm={"raised": False, "p": 0.75}, bits_per_byte=bits,
          cost={"tokens": {"treated": 100.5, "control": 400.0}},
          effective_data=_effective(low=None),
          metrics={"chrf": {"difference": 1.5, "low": 1.0, "high": 2.0, "p": 0.125}}),
      found.pair(treated="words", same_tokens=False, bits_per_byte=bits), drawn])
  facts["runs"]["drawn"] = [found.run(0, step=7)]
  for run in facts["runs"]["moved"]:
    run["metrics"] = {"chrf": 12.125, "intervals": {}}
  found.with_workdirs(tmp_path, facts)

  report_csv.write(tmp_path, facts)

  first, words, pen = csv.DictReader(io.StringIO((tmp_path / "pairs.csv").read_text()))
  assert {key: value for key, value in first.items() if value} == {
      "treated": "moved", "control": "scratch", "unit": "nats per token", "seeds": "2",
      "seeds_ahead": "2", "documents": "7", "verdict": "better", "p": "0.0625",
      "alarm_p": "0.75", "gain_nats_per_token": "0.25", "low_nats_per_token": "0.125",
      "high_nats_per_token": "0.375", "gain_bits_per_byte": "0.5",
      "low_bits_per_byte": "0.25", "high_bits_per_byte": "0.75",
      "chrf_difference": "1.5", "chrf_low": "1.0", "chrf_high": "2.0",
      "chrf_p": "0.125", "control_steps": "70.0", "treated_tokens": "100.5",
      "control_tokens": "400.0", "effective_unit": "bytes", "effective_own": "10",
      "effective_amount": "60.0", "effective_high": "90.0",
      "effective_interpolated": "60.0"}
  assert (words["unit"], words["gain_bits_per_byte"], words["p"]) == (
      "bits per byte", "0.5", "0.03125")
  assert words["gain_nats_per_token"] == ""  # Of other tokens, they do not compare.
  assert (pen["unit"], pen["gain_nats_per_step"], pen["gain_bits_per_byte"]) == (
      "nats per step", "0.25", "")
  assert (pen["treated_steps"], pen["control_steps"], pen["verdict"]) == (
      "20.0", "7.0", "no clear difference")


def test_the_data_of_all_runs_are_named_once(tmp_path):
  for run, facts in enumerate((
      {"name": "docs", "version": "1.2", "fingerprint": "a" * 64},
      {"name": "files", "version": None, "fingerprint": "b" * 64},
      {"name": "docs", "version": "1.2", "fingerprint": "a" * 64})):
    (tmp_path / str(run)).mkdir()
    (tmp_path / str(run) / "data.json").write_text(json.dumps(facts))

  title = every_training.data_title(tmp_path / str(run) for run in range(3))

  assert title == f"docs 1.2 {'a' * 16}, files {'b' * 16}"
