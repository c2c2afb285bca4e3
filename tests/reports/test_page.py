"""The page: self-contained, every number leads to its runs, and it shows in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reports.__main__ import main
from reports.build import build
from tracegrad.errors import DataError

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
VOID = {"meta", "img", "br", "link", "input"}


class Reader(HTMLParser):
    """Collects what the tests ask about, and sees that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.numbers: list[tuple[str, list[str]]] = []
        self.images: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.preformatted: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        self.links += [given[name] for name in ("href", "src", "action", "data") if name in given]
        if given.get("class") == "number":
            self.numbers.append((given["data-what"], given["data-runs"].split()))
        if tag == "img":
            self.images.append(given["alt"])
        if tag == "pre":
            self.preformatted.append("")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "pre":
            self.preformatted[-1] += data


def read(folder: Path) -> Reader:
    reader = Reader()
    reader.feed((folder / "report.html").read_text(encoding="utf-8"))
    return reader


@pytest.fixture(scope="module")
def built(fake_record: Make, write_into: Write, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sweep with its reports: two seeds of the baseline, one of TraceGrad, on MG and BB."""
    folder = write_into(
        tmp_path_factory.mktemp("sweep"),
        *(fake_record(dataset, seed=seed) for dataset in ("MG", "BB") for seed in (42, 43)),
        *(fake_record(dataset, "DeepHE3+TraceGrad", scale=0.5) for dataset in ("MG", "BB")),
    )
    build(folder)
    return folder


@pytest.fixture
def folder(fake_record: Make, write_records: Write) -> Path:
    """A sweep of two runs without figures besides the bars."""
    return write_records(fake_record(lean=True), fake_record(setting="DeepHE3+TraceGrad", scale=0.5, lean=True))


def test_the_page_needs_nothing_from_elsewhere(built: Path) -> None:
    reader = read(built)
    assert reader.links
    assert all(link.startswith(("#", "data:image/")) for link in reader.links)
    assert not {"link", "iframe", "object", "embed"} & set(reader.tags)
    text = (built / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert "url(" not in text


def test_the_page_is_well_formed(built: Path) -> None:
    reader = read(built)
    assert (reader.wrong, reader.open) == ([], [])
    assert len(reader.ids) == len(set(reader.ids))
    assert all(link[1:] in reader.ids for link in reader.links if link.startswith("#"))


def test_every_number_leads_to_the_runs_it_was_made_from(built: Path) -> None:
    reader = read(built)
    assert len(reader.numbers) == (2 + 4) * 3  # rows with runs times metrics
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((built / "runs").iterdir())]
    for what, runs in reader.numbers:
        for run in runs:
            record = records[int(run.removeprefix("run-"))]
            assert what.startswith(f"{record['setting']}, {record['dataset']} ")
            assert f"seed {record['seed']}:" in what
    embedded = [json.loads(text) for text in reader.preformatted]
    assert [record for record in embedded if "metrics" in record] == records


def test_a_number_over_fewer_seeds_leads_to_those_runs_alone(fake_record: Make, write_records: Write) -> None:
    records = [fake_record(seed=42, lean=True)]
    records += [fake_record(setting="DeepHE3+Grad", seed=seed, scale=2.0, lean=True) for seed in (41, 42, 43)]
    folder = write_records(*records)
    build(folder)
    found = {what.split("; ")[0]: (what.split("; ")[1], runs) for what, runs in read(folder).numbers}
    assert found["DeepHE3+Grad, MG all, MAE_cha_sample in meV"] == ("seed 42: 12.00", ["run-2"])
    assert found["DeepHE3+Grad, MG all, MAE_all in meV"][1] == ["run-1", "run-2", "run-3"]  # control
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert '12.00</a> <span class="soft">(1 of 3 seeds)</span> <span class="soft">(+100.0 %)</span>' in text
    assert '<span class="soft">(+100.0 % over 1 of 3 seeds)</span>' in text


def test_all_figures_are_embedded(built: Path) -> None:
    assert read(built).images == [f"{kind} {key}" for kind in ("blocks", "curves", "distance") for key in ("BB", "MG")]


def test_text_of_records_cannot_become_markup(fake_record: Make, write_records: Write) -> None:
    nasty = '</pre><script>alert("x")</script><img src=x>'
    folder = write_records(fake_record(label=nasty, device=nasty, lean=True), fake_record(source=nasty, lean=True))
    build(folder)
    reader = read(folder)
    assert reader.tags.count("script") == 1
    assert (reader.wrong, reader.open) == ([], [])
    assert all(link.startswith(("#", "data:image/")) for link in reader.links)


def test_verification_environment_and_failures_are_shown(folder: Path) -> None:
    check = {"name": "rotation", "verdict": "PASS", "error": 1e-15, "tolerance": 1e-13, "message": ""}
    (folder / "verify.json").write_text(json.dumps({"target": "four settings", "verdict": "PASS", "checks": [check]}))
    (folder / "sweep.json").write_text(json.dumps({"environment": {"cpu": "abacus"}, "failures": ["BB_x: broke"]}))
    build(folder)
    assert {"verification", "environment", "failures"} <= set(read(folder).ids)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert all(word in text for word in ("four settings: PASS", "rotation", "abacus", "BB_x: broke"))


def test_sections_without_content_are_left_out(built: Path) -> None:
    assert not {"verification", "environment", "failures", "bands"} & set(read(built).ids)


def test_comparisons_have_figures_of_their_own(fake_record: Make, write_records: Write) -> None:
    folder = write_records(fake_record(lean=True), fake_record(recipe="paper", lean=True))
    build(folder)
    names = {path.name for path in folder.glob("blocks_*.svg")}
    assert names == {"blocks_MG_bundled_smoke_fast.svg", "blocks_MG_bundled_smoke_paper.svg"}


def test_the_same_records_give_the_same_page(folder: Path) -> None:
    pages = []
    for _ in range(2):
        build(folder)
        pages.append((folder / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_the_command_prints_the_papers_values_apart(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--out", str(tmp_path / "elsewhere")]) == 0
    printed = capsys.readouterr().out
    assert "PAPER, other data" in printed
    line = next(line for line in printed.splitlines() if "MG" in line and "DeepHE3+TraceGrad" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[3] == "1.750 (-50.0 %)"
    assert cells[7] == "0.175 (-30.3 %)"
    assert (tmp_path / "elsewhere" / "report.html").is_file()


def test_the_command_reports_bad_input_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: expected a folder of run records")


def test_a_broken_side_file_is_named(folder: Path) -> None:
    (folder / "verify.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"verify\.json: expected a JSON object, found list"):
        build(folder)
    for checks in ({"rotation": 1}, ["rotation"], [{"name": "rotation"}]):
        (folder / "verify.json").write_text(json.dumps({"checks": checks}))
        with pytest.raises(DataError, match=r"verify\.json: expected a list of checks, each with a name and a verdict"):
            build(folder)
    (folder / "verify.json").write_text(json.dumps({"checks": [{"name": "rotation", "verdict": "PASS"}]}))
    build(folder)


def browser() -> str | None:
    """Path of a headless browser."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(browser() is None, reason="needs a headless browser (Debian package chromium)")
@pytest.mark.parametrize("size", ["1280,1600", "400,1600"], ids=["desktop", "phone"])
def test_the_page_shows_in_a_browser(built: Path, tmp_path: Path, size: str) -> None:
    program, picture = browser(), tmp_path / "page.png"
    assert program is not None
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    address = (built / "report.html").as_uri()
    shot = [*command, f"--window-size={size}", f"--screenshot={picture}", address]
    subprocess.run(shot, check=True, capture_output=True, timeout=120)
    assert picture.stat().st_size > 20_000  # an empty page of this size takes a tenth of that
    dumped = subprocess.run([*command, "--dump-dom", address], check=True, capture_output=True, timeout=120).stdout
    assert b"MAE_all" in dumped


def test_energies_states_and_gaps_stand_on_the_page(fake_record: Make, write_records: Write) -> None:
    second = fake_record(seed=43)
    second["metrics"]["all"]["physics"]["mae_raw"] = 6.0
    del second["metrics"]["all"]["physics"]["gap_predicted"]
    records = [fake_record(), second, fake_record(setting="DeepHE3+Grad", lean=True)]
    folder = write_records(*records)
    build(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    section = text.split('<h2 id="physics">')[1].split("<h2")[0]
    cells = ["MG", "all", "DeepHE3", "MG_0", "5.000", "3.000", "25.0", "20.0", "0.7500", "0.8750", "0.500", "–", "2"]
    body = section.split("<tbody>")[1]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", body) == cells
    assert "DeepHE3+Grad" not in body
    lean = write_records(fake_record(lean=True), fake_record(lean=True, seed=43), fake_record(lean=True, seed=44))
    build(lean)
    assert 'id="physics"' not in (lean / "report.html").read_text(encoding="utf-8")


def test_a_record_tested_later_names_both_commits(fake_record: Make, write_records: Write) -> None:
    later = fake_record(seed=43, retested={"git_commit": "a" * 40, "select": "last"})
    folder = write_records(fake_record(), later)
    build(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "trained at commit 000000000000, last weights tested at commit aaaaaaaaaaaa<" in page
    assert page.count("· commit 000000000000<") == 1  # the other one says when it was trained


def test_only_a_change_that_the_seeds_support_is_coloured(fake_record: Make, write_records: Write) -> None:
    def page(scales: tuple[float, float, float]) -> str:
        records = [fake_record(seed=42 + k, scale=1.0 + 0.01 * k) for k in range(3)]
        records += [fake_record(setting="DeepHE3+Grad", seed=42 + k, scale=s) for k, s in enumerate(scales)]
        folder = write_records(*records)
        build(folder)
        return (folder / "report.html").read_text(encoding="utf-8")

    assert 'class="better">(-29.' in page((0.70, 0.715, 0.71))
    by_chance = page((0.5, 1.2, 0.9))  # better on average
    assert 'class="soft">(-14.' in by_chance
    assert 'class="better"' not in by_chance
