"""Tables: who is compared with whom, where the challenging metrics are taken, what stays empty."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reports.__main__ import main
from reports.build import build
from reports.equivariance import EquivarianceError
from reports.records import by_comparison, load_records, read_record
from reports.render import error_text, latex, latex_escape, markdown, p_text, write_tables
from reports.summary import summary
from reports.tables import PAPER, Row, Table, build_tables, read_published
from tracegrad.errors import DataError

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


def tables_of(folder: Path) -> list[Table]:
    groups = by_comparison(load_records(folder / "runs"))
    return [
        table for comparison, members in groups.items() for table in build_tables(comparison, members, read_published())
    ]


def row_of(table: Table, dataset: str, subset: str, method: str) -> Row:
    (row,) = [row for row in table.rows if (row.dataset, row.subset, row.method) == (dataset, subset, method)]
    return row


def test_challenging_metrics_are_taken_where_the_baseline_is_worst(fake_record: Make, write_records: Write) -> None:
    baseline, other = fake_record(), fake_record(setting="DeepHE3+TraceGrad")
    baseline["metrics"]["all"] |= {"per_structure": {"a": 1.0, "b": 5.0}, "mae_block": {"s1-s1": 7.0, "s1-p1": 3.0}}
    other["metrics"]["all"] |= {"per_structure": {"a": 6.0, "b": 2.0}, "mae_block": {"s1-s1": 1.5, "s1-p1": 4.0}}
    (table,) = tables_of(write_records(baseline, other))
    cells = row_of(table, "MG", "all", "DeepHE3+TraceGrad").cells
    assert cells["mae_cha_sample"].summary.values == (2.0,)  # not 6.0, its own worst, nor 999 of the record
    assert cells["mae_cha_block"].summary.values == (1.5,)
    assert cells["mae_cha_block"].change == pytest.approx(1.5 / 7.0 - 1)
    assert row_of(table, "MG", "all", "DeepHE3").cells["mae_cha_sample"].summary.values == (5.0,)


def test_each_seed_has_its_own_baseline(fake_record: Make, write_records: Write) -> None:
    records = []
    for seed, worst in ((42, "a"), (43, "b")):
        base, other = fake_record(seed=seed), fake_record(setting="DeepHE3+Grad", seed=seed)
        base["metrics"]["all"]["per_structure"] = {"a": 1.0, "b": 1.0, worst: 5.0}
        other["metrics"]["all"]["per_structure"] = {"a": 2.0, "b": 4.0}
        records += [base, other]
    (table,) = tables_of(write_records(*records))
    summary = row_of(table, "MG", "all", "DeepHE3+Grad").cells["mae_cha_sample"].summary
    assert summary.values == (2.0, 4.0)
    assert (summary.mean, summary.std) == pytest.approx((3.0, 2**0.5))


def test_challenging_metrics_need_the_baseline_of_the_same_seed(fake_record: Make, write_records: Write) -> None:
    (table,) = tables_of(write_records(fake_record(seed=42), fake_record(setting="DeepHE3+Grad", seed=43)))
    cells = row_of(table, "MG", "all", "DeepHE3+Grad").cells
    assert cells["mae_all"].summary is not None
    assert cells["mae_cha_sample"].summary is None


@pytest.fixture
def uneven(fake_record: Make, write_records: Write) -> Path:
    """Three seeds of two settings, two of the baseline, one of a control, and a seed without errors by structure."""
    records = [fake_record(seed=seed, scale=scale) for seed, scale in ((42, 1.0), (43, 3.0))]
    records += [fake_record(setting="DeepHE3+Grad", seed=seed, scale=2.0) for seed in (42, 43, 44)]
    records += [fake_record(setting="DeepHE3+Trace", seed=seed, scale=2.0) for seed in (42, 43, 44)]
    records[-2]["metrics"]["all"]["per_structure"] = {}
    return write_records(*records, fake_record(label="DeepHE3 (equal time)"))


def test_a_seed_without_a_baseline_takes_no_metric_from_the_others(uneven: Path) -> None:
    (table,) = tables_of(uneven)
    base, grad, trace = (row_of(table, "MG", "all", f"DeepHE3{name}").cells for name in ("", "+Grad", "+Trace"))
    assert base["mae_cha_sample"].seeds == (42, 43)
    assert grad["mae_all"].seeds == (42, 43, 44)
    assert grad["mae_cha_sample"].seeds == grad["mae_cha_block"].seeds == (42, 43)
    assert grad["mae_cha_sample"].summary.values == (12.0, 12.0)
    assert grad["mae_cha_sample"].change == pytest.approx(12.0 / 12.0 - 1)  # the baseline has 6 and 18
    assert (trace["mae_cha_sample"].seeds, trace["mae_cha_block"].seeds) == ((42,), (42, 43))
    assert trace["mae_cha_sample"].change == pytest.approx(12.0 / 6.0 - 1)
    assert trace["mae_cha_sample"].change_seeds == (42,)


def test_means_over_fewer_seeds_than_others_say_so(uneven: Path) -> None:
    tables = tables_of(uneven)
    lines = {
        line.split(" | ")[2]: line.split(" | ")[3:6] for line in markdown(tables[0]).splitlines() if "| MG" in line
    }
    assert lines["DeepHE3"][0] == "7.000 ± 4.950 (2 of 3 seeds)"
    assert lines["DeepHE3+Grad"][:2] == [
        "7.000 ± 0.000 (+0.0 % over 2 of 3 seeds)",
        "12.00 ± 0.000 (2 of 3 seeds, +0.0 %)",
    ]
    assert lines["DeepHE3+Trace"][1] == "12.00 (1 of 3 seeds, +100.0 %)"
    assert lines["DeepHE3 (equal time)"][0] == "3.500 (+0.0 %)"  # one run has no deviation
    assert "Where seeds are missing" in markdown(tables[0])
    short = summary(tables)
    assert "| 7.000 ± 4.950 (2 of 3 seeds) |" in short
    assert "| 7.000 ± 0.000 (+0.0 % over 2 of 3 seeds) |" in short
    assert r"(2 of 3 seeds, +0.0 \%)" in latex(tables[0])


def test_the_csv_names_the_seeds_of_a_mean_where_some_are_missing(uneven: Path) -> None:
    (path,) = (path for path in write_tables(tables_of(uneven), uneven) if path.name == "table1.csv")
    frame = pd.read_csv(path).set_index(["dataset", "method"])
    grad = frame.loc[("MG", "DeepHE3+Grad")]
    assert (grad["seeds"], grad["mae_cha_sample_seeds"], grad["mae_all_change_seeds"]) == ("42 43 44", "42 43", "42 43")
    assert pd.isna(frame.loc[("MG", "DeepHE3")]["mae_cha_sample_seeds"])  # all that it has


def test_complete_seeds_need_no_words(fake_record: Make, write_records: Write) -> None:
    """Control: with the same seeds in every row, and controls of one, nothing is said about seeds."""
    records = [fake_record(setting=s, seed=seed) for s in ("DeepHE3", "DeepHE3+Grad") for seed in (42, 43)]
    folder = write_records(*records, fake_record(label="DeepHE3 (equal time)"))
    tables = tables_of(folder)
    text = markdown(tables[0]) + summary(tables) + latex(tables[0])
    assert " of 2 seeds" not in text
    assert "Where seeds are missing" not in text
    assert "no value: not run, or not in the paper. " in text
    write_tables(tables, folder)
    assert "mae_all_change_seeds" not in (folder / "table1.csv").read_text(encoding="utf-8")


def test_the_caption_names_what_a_dash_stands_for(fake_record: Make, write_records: Write) -> None:
    (table,) = tables_of(write_records(fake_record("MM", "HarmoSE")))  # trained, and no DeepHE3 beside it
    assert row_of(table, "MM", "all", "HarmoSE").cells["mae_cha_block"].summary is None
    words = "not run, not in the paper, or a cha metric without DeepHE3 of the same seed"
    assert words in markdown(table)
    assert words in latex(table)
    measured = {"MM HarmoSE": EquivarianceError(None, 0.05)}
    records = load_records(write_records(fake_record("MM", "HarmoSE"), fake_record("MM", "HarmoSE+TraceGrad")) / "runs")
    (other,) = build_tables(records[0].comparison, records, {}, measured)
    assert "by structure or block, or not verified. " in markdown(other)
    assert "not verified" not in markdown(table)


def test_changes_compare_the_same_seeds(fake_record: Make, write_records: Write) -> None:
    records = [fake_record(seed=seed, scale=scale) for seed, scale in ((42, 1.0), (43, 3.0))]
    records += [fake_record(setting="DeepHE3+Grad", seed=43, scale=3.3), fake_record(setting="DeepHE3+Trace", seed=44)]
    (table,) = tables_of(write_records(*records))
    grad, trace = (row_of(table, "MG", "all", f"DeepHE3+{name}").cells["mae_all"] for name in ("Grad", "Trace"))
    assert grad.change == pytest.approx(0.1)  # not 3.3 against the mean of 1 and 3
    assert trace.summary is not None
    assert trace.change is None  # control: a seed that the baseline was not trained with


def test_rows_without_a_run_stay_and_are_empty(fake_record: Make, write_records: Write) -> None:
    (table,) = tables_of(write_records(fake_record()))
    assert [(row.dataset, row.method) for row in table.rows] == [
        (dataset, method)
        for dataset in ("MG", "MM")
        for method in ("DeepHE3", "DeepHE3+Trace", "DeepHE3+Grad", "DeepHE3+TraceGrad")
    ]
    empty = row_of(table, "MM", "all", "DeepHE3+Trace")
    assert empty.records == ()
    assert empty.cells["mae_all"].summary is None
    assert empty.cells["mae_all"].paper == 0.378
    line = next(line for line in markdown(table).splitlines() if line.startswith("| MM | all | DeepHE3+Trace |"))
    assert line.count("| – ") == 5
    assert "not run" in line


def test_both_subsets_of_a_bilayer_have_rows(fake_record: Make, write_records: Write) -> None:
    record = fake_record("BT")
    del record["metrics"]["t"]
    (table,) = tables_of(write_records(record, fake_record("BB")))
    assert table.layout.number == 2
    assert row_of(table, "BB", "t", "DeepHE3").records
    assert not row_of(table, "BT", "t", "DeepHE3").records
    assert row_of(table, "BT", "t", "DeepHE3").cells["mae_all"].paper == 0.831


def test_recipes_presets_and_sources_are_never_mixed(fake_record: Make, write_records: Write) -> None:
    other = fake_record(scale=2.0, recipe="paper")
    folder = write_records(fake_record(), other, fake_record(preset="bundled"), fake_record(source="published"))
    tables = tables_of(folder)
    assert len(tables) == 4
    assert all(len(row_of(table, "MG", "all", "DeepHE3").records) == 1 for table in tables)
    text = (write_tables(tables, folder)[0]).read_text(encoding="utf-8")
    assert text.count("### Table 1") == 4


def test_the_recipe_is_found_wherever_the_configuration_names_it(fake_record: Make, write_records: Write) -> None:
    inner, outer = fake_record(), fake_record(seed=43)
    del inner["recipe"], outer["recipe"]
    inner["config"] = {"training": {"recipe": "paper"}}
    outer["config"] = {"recipe": "fast", "training": {}}
    records = load_records(write_records(inner, outer) / "runs")
    assert [record.comparison.recipe for record in records] == ["paper", "fast"]


def test_controls_are_extra_rows(fake_record: Make, write_records: Write) -> None:
    control = fake_record(scale=0.5, label="DeepHE3 (equal time)")
    (table,) = tables_of(write_records(fake_record(), control))
    assert [row.method for row in table.rows if row.dataset == "MG"][-1] == "DeepHE3 (equal time)"
    assert row_of(table, "MG", "all", "DeepHE3 (equal time)").cells["mae_all"].change == pytest.approx(-0.5)
    assert len(row_of(table, "MG", "all", "DeepHE3").records) == 1  # control: it does not join the baseline's mean


def test_table_3_compares_with_harmose_and_quotes_deeph_2(fake_record: Make, write_records: Write) -> None:
    records = [fake_record("MM", s, scale=k) for s, k in (("DeepHE3", 1), ("HarmoSE", 4), ("HarmoSE+TraceGrad", 3))]
    first, third = tables_of(write_records(*records))
    assert (first.layout.number, third.layout.number) == (1, 3)
    assert [row.method for row in third.rows] == ["DeepH-2", "HarmoSE", "HarmoSE+TraceGrad"]
    cells = row_of(third, "MM", "all", "HarmoSE+TraceGrad").cells
    assert cells["mae_all"].change == pytest.approx(-0.25)
    assert cells["mae_all"].paper_change == pytest.approx(0.178 / 0.233 - 1)
    assert row_of(third, "MM", "all", "DeepH-2").cells["mae_cha_block"].paper is None


def test_paired_tests_cover_all_pairs_and_adjust_for_their_number(fake_record: Make, write_records: Write) -> None:
    settings = ("DeepHE3", "DeepHE3+Trace", "DeepHE3+TraceGrad")
    records = [fake_record(setting=s, scale=k, seed=seed) for k, s in enumerate(settings, 1) for seed in (1, 2, 3)]
    (table,) = tables_of(write_records(*records))
    tests = table.tests["MG", "all"]
    structures = [found for found in tests if found.test.over == "test structures"]
    assert [(found.test.second, found.test.first) for found in structures] == [
        (settings[0], settings[1]), (settings[0], settings[2]), (settings[1], settings[2])
    ]  # fmt: skip
    assert structures[0].test.n == 6
    assert structures[0].test.mean_difference == pytest.approx(3.5)
    assert all(found.p_wilcoxon == pytest.approx(3 * found.test.p_wilcoxon) for found in structures)
    assert [found.test.n for found in tests if found.test.over == "seeds"] == [3, 3, 3]


def test_what_has_no_network_has_no_weights_and_no_share_in_the_tests(fake_record: Make, write_records: Write) -> None:
    alone = fake_record(scale=99.0, label="two-centre reference")
    alone["config"] = alone["config"] | {"model": {"reference_only": True}}
    records = [fake_record(), fake_record(setting="DeepHE3+Grad", scale=2.0)]
    (table,) = tables_of(write_records(*records, alone))
    assert [(found.test.first, found.p_t) for found in table.tests["MG", "all"]] == [
        ("DeepHE3+Grad", pytest.approx(table.tests["MG", "all"][0].test.p_t))
    ]
    assert [run.parameters for run in row_of(table, "MG", "all", "two-centre reference").records] == [0]
    assert [run.parameters for run in row_of(table, "MG", "all", "DeepHE3+Grad").records] == [1000]  # control


def test_two_seeds_are_too_few_for_a_test_over_seeds(fake_record: Make, write_records: Write) -> None:
    records = [fake_record(setting=s, seed=seed) for s in ("DeepHE3", "DeepHE3+Grad") for seed in (1, 2)]
    (table,) = tables_of(write_records(*records))
    assert {found.test.over for found in table.tests["MG", "all"]} == {"test structures"}


def test_published_values_are_those_of_the_paper() -> None:
    published = read_published()
    assert len(published) == 43
    assert published[1, "MG", "all", "DeepHE3+TraceGrad"] == {
        "mae_all": 0.175, "mae_cha_sample": 0.257, "mae_cha_block": 0.228
    }  # fmt: skip
    assert published[2, "BT", "t", "DeepHE3"]["mae_cha_block"] == 4.572
    assert published[3, "MM", "all", "DeepH-2"] == {"mae_all": 0.21}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"all": {"mae_all": 1.0}}}, "expected the field 'mae_block'"),
        ({"seed": None}, "field of another type"),
        ({"metrics": {"all": {"mae_all": float("nan"), "mae_block": {}}}}, "expected finite errors"),
        ({"config": {"training": {}}, "recipe": ""}, "expected the field 'recipe'"),
        ({"metrics": {"all": {"mae_all": "abc", "mae_block": {}}}}, "another type .*'abc'"),
        ({"metrics": {"all": {"mae_all": 1.0, "mae_block": {}, "physics": {"mu": 1.0}}}}, "the field 'structure'"),
        ({"metrics": {"all": {"mae_all": 1.0, "mae_block": {}, "physics": {"structure": "a", "mu": "b"}}}}, "'b'"),
        ({"seed": "x"}, "another type .*'x'"),
        ({"seed": float("inf")}, "another type .*infinity"),
        ({"steps": "80"}, "expected a whole number of steps, found '80'"),
        ({"curve": [1, 2]}, "another type .*'items'"),
        ({"curve": {"step": [1, "a"]}}, "another type .*'a'"),
    ],
    ids=[
        "missing", "type", "nan", "recipe", "text", "physics", "physics-text", "seed", "infinite", "steps", "curve",
        "column",
    ],
)  # fmt: skip
def test_a_broken_record_is_rejected(
    fake_record: Make, write_records: Write, change: dict[str, Any], message: str
) -> None:
    folder = write_records(fake_record() | change)
    with pytest.raises(DataError, match=message):
        read_record(folder / "runs" / "000.json")


def test_a_truncated_record_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"dataset": "MG", ', encoding="utf-8")
    with pytest.raises(DataError, match="expected a run record in JSON"):
        read_record(tmp_path / "run.json")


@pytest.mark.parametrize("depth", [500, 100_000])
def test_a_record_of_endless_nesting_is_rejected(fake_record: Make, tmp_path: Path, depth: int) -> None:
    text = json.dumps(fake_record()).replace('"steps": 80', f'"steps": {"[" * depth}{"]" * depth}')
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"run\.json: expected"):
        read_record(tmp_path / "run.json")


@pytest.mark.parametrize("make", [False, True], ids=["missing", "empty"])
def test_a_folder_without_records_is_rejected(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "runs").mkdir()
    with pytest.raises(DataError, match="nox -s reproduce"):
        load_records(tmp_path / "runs")


def test_runs_on_different_splits_are_not_compared(fake_record: Make, write_records: Write) -> None:
    folder = write_records(fake_record(), fake_record(setting="DeepHE3+Grad", split_sha256="e" * 64))
    with pytest.raises(DataError, match="different splits of MG"):
        tables_of(folder)


def test_two_records_of_one_run_are_rejected(fake_record: Make, write_records: Write) -> None:
    folder = write_records(fake_record(), fake_record(scale=2.0))
    with pytest.raises(DataError, match="both describe DeepHE3 on MG, seed 42"):
        load_records(folder / "runs")


def test_a_structure_that_only_the_baseline_was_tested_on_is_rejected(fake_record: Make, write_records: Write) -> None:
    other = fake_record(setting="DeepHE3+Grad")
    other["metrics"]["all"]["per_structure"] = {"another": 1.0}
    with pytest.raises(DataError, match="was not tested on"):
        tables_of(write_records(fake_record(), other))


def test_all_three_forms_hold_the_same_numbers(fake_record: Make, write_records: Write) -> None:
    records = [fake_record(seed=seed, scale=scale) for seed, scale in ((42, 1.0), (43, 1.5))]
    folder = write_records(*records, fake_record(setting="DeepHE3+TraceGrad"))
    written = {path.name: path for path in write_tables(tables_of(folder), folder)}
    assert set(written) == {"table1.md", "table1.csv", "table1.tex", "table1_tests.csv"}
    frame = pd.read_csv(written["table1.csv"]).set_index(["dataset", "method"])
    line = frame.loc[("MG", "DeepHE3")]
    assert line["mae_all_mean_mev"] == pytest.approx(3.5 * 1.25)
    assert line["mae_all_std_mev"] == pytest.approx(3.5 * 0.5 / 2**0.5)
    assert line["mae_all_paper_other_data_mev"] == 0.251
    assert pd.isna(frame.loc[("MM", "DeepHE3")]["mae_all_mean_mev"])
    assert "| 4.375 ± 1.237 |" in written["table1.md"].read_text(encoding="utf-8")
    assert r"4.375 $\pm$ 1.237" in written["table1.tex"].read_text(encoding="utf-8")


def test_ours_and_the_papers_values_have_columns_of_their_own(fake_record: Make, write_records: Write) -> None:
    (table,) = tables_of(write_records(fake_record()))
    lines = markdown(table).splitlines()
    head = next(line for line in lines if line.startswith("| data")).strip("| ").split(" | ")
    body = next(line for line in lines if line.startswith("| MG | all | DeepHE3 |")).strip("| ").split(" | ")
    assert body[head.index("MAE_all")] == "3.500"
    assert body[head.index(f"{PAPER}: MAE_all")] == "0.251"


def test_the_summary_has_a_line_for_every_subset_that_was_trained(fake_record: Make, write_records: Write) -> None:
    records = [fake_record(seed=seed, scale=scale) for seed, scale in ((42, 1.0), (43, 1.5))]
    records += [
        fake_record(setting="DeepHE3+TraceGrad", scale=0.5),
        fake_record(scale=2.0, label="DeepHE3 (equal time)"),
        fake_record(
            scale=9.0, label="two-centre reference", config={"recipe": "fast", "model": {"reference_only": True}}
        ),
    ]
    records += [fake_record("BB"), fake_record("MM", "HarmoSE"), fake_record("MM", "HarmoSE+TraceGrad", scale=0.9)]
    lines = summary(tables_of(write_records(*records))).splitlines()
    assert lines[2].count("|") == len(["data", "test", "backbone", *range(4), "two", "controls", "paper"]) + 1
    assert [line.split(" | ")[:2] for line in lines[4:]] == [
        ["| MG", "6"], ["| BB nt", "6"], ["| BB t", "6"], ["| MM", "6"]
    ]  # fmt: skip
    assert lines[4] == (
        "| MG | 6 | DeepHE3 | 4.375 ± 1.237 | – | – | 1.750 (-50.0 %) | 7.000 (+100.0 %) | 31.50 | -30.3 % |"
    )  # of the paper only its own change
    assert lines[-1] == "| MM | 6 | HarmoSE | 3.500 | – | – | 3.150 (-10.0 %) | – | – | -23.6 % |"


def measured(target: str, error: float, check: str = "budget") -> dict[str, Any]:
    return {"target": target, "checks": [{"name": check, "error": error}]}


def test_an_approximate_network_has_its_equivariance_error_beside_its_mae(
    fake_record: Make, write_records: Write
) -> None:
    reports = [
        measured("MM HarmoSE, before training", 1.6e-13),
        measured("MM HarmoSE", 0.0531),
        measured("MM DeepHE3", 3e-15, "rotation"),  # exact: no error in meV stands anywhere
    ]
    folder = write_records(fake_record("MM"), fake_record("MM", "HarmoSE"))
    (folder / "verify.json").write_text(json.dumps({"verdict": "PASS", "checks": [], "reports": reports}))
    first, third = build(folder)
    (row,) = [row for row in third.rows if row.method == "HarmoSE"]
    assert (row.equivariance.before, row.equivariance.after) == (1.6e-13, 0.0531)
    (line,) = [line for line in markdown(third).splitlines() if line.startswith("| MM | all | HarmoSE |")]
    assert " 3.500 |" in line
    assert "| 1.6e-13 → 0.053 |" in line
    assert "equivariance error" not in markdown(first)
    for name in ("table3.md", "table3.tex", "summary.md", "report.html"):
        assert "1.6e-13 → 0.053" in (folder / name).read_text(encoding="utf-8").replace(r"$\to$", "→"), name
    assert pd.read_csv(folder / "table3.csv")["equivariance_error_mev"].dropna().tolist() == [0.0531]
    assert not any(table.approximate for table in tables_of(folder))  # control: nothing was measured


@pytest.mark.parametrize(
    "report",
    [
        {"target": "MM HarmoSE"},
        {"checks": [{"name": "budget", "error": 1.0}]},
        {"target": "MM HarmoSE", "checks": [{"error": 1.0}]},
        {"target": "MM HarmoSE", "checks": [{"name": "budget", "error": "small"}]},
        "MM HarmoSE",
    ],
    ids=["no-checks", "no-target", "no-name", "no-number", "text"],
)
def test_a_broken_report_of_the_verifier_is_named(
    fake_record: Make, write_records: Write, report: object, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_records(fake_record("MM"))
    (folder / "verify.json").write_text(json.dumps({"verdict": "PASS", "checks": [], "reports": [report]}))
    assert main([str(folder)]) == 2
    assert "verify.json: expected in every report a target and checks" in capsys.readouterr().err
    whole = {"verdict": "PASS", "checks": [], "reports": [measured("MM HarmoSE", 0.1)]}
    (folder / "verify.json").write_text(json.dumps(whole))
    assert main([str(folder)]) == 0  # control


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_named(
    fake_record: Make, write_records: Write, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_records(fake_record())
    (folder / "file").write_text("x")
    assert main([str(folder), "--out", str(folder / out)]) == 2
    assert str(folder / "file") in capsys.readouterr().err
    assert main([str(folder), "--out", str(folder / "new" / "below")]) == 0  # control


def test_a_table_says_how_many_steps_its_rows_took(fake_record: Make, write_records: Write) -> None:
    control = fake_record(label="DeepHE3 (equal time)", steps=1234)
    alike = [fake_record(steps=3000), fake_record(setting="DeepHE3+Grad", steps=3000), control]
    (table,) = tables_of(write_records(*alike))
    assert table.title.endswith("recipe fast, 3,000 steps")
    assert "recipe fast, 3,000 steps. Errors" in markdown(table)
    assert "recipe fast, 3,000 steps; mean" in summary([table])
    (mixed,) = tables_of(write_records(*alike, fake_record("MM", steps=1200)))
    assert mixed.title.endswith("recipe fast")  # control: nothing is said where databases differ


def trained(model: dict[str, object] | None = None, **training: object) -> dict[str, object]:
    given = {"seed": 42, "max_steps": 0, "learning_rate": 0.1, "select": "best", "optimizer": "soap"} | training
    built = {"norm": "none", "reference": True, "hermitian": True, "embed_dim": 64} | (model or {})
    return {"recipe": "fast", "data": {}, "model": built, "training": given}


@pytest.mark.parametrize(
    ("first", "second", "key"),
    [
        ({"seed": 42}, {"seed": 43, "config": trained(seed=43, max_steps=1200)}, "training.max_steps: 0 -> 1200"),
        ({"seed": 42}, {"seed": 43, "config": trained(learning_rate=0.5)}, "training.learning_rate"),
        ({}, {"setting": "DeepHE3+Grad", "config": trained(max_steps=1200)}, "training.max_steps: 0 -> 1200"),
        ({}, {"setting": "DeepHE3+Grad", "config": trained(select="last")}, "training.select: 'best' -> 'last'"),
        ({}, {"setting": "DeepHE3+Grad", "config": trained(optimizer="adam")}, "training.optimizer: 'soap' -> 'adam'"),
        ({}, {"setting": "DeepHE3+Grad", "config": trained({"norm": "graph"})}, "model.norm: 'none' -> 'graph'"),
        ({}, {"setting": "DeepHE3+Grad", "config": trained({"reference": False})}, "model.reference: True -> False"),
        ({}, {"setting": "DeepHE3+Grad", "config": trained({"hermitian": False})}, "model.hermitian: True -> False"),
        ({}, {"setting": "HarmoSE", "config": trained({"norm": "graph"})}, "model.norm: 'none' -> 'graph'"),
    ],
    ids=[
        "length-of-seeds", "rate-of-seeds", "length-of-settings", "weights-of-settings", "optimizer-of-settings",
        "norm-of-settings", "targets-of-settings", "symmetry-of-settings", "norm-of-backbones",
    ],
)  # fmt: skip
def test_runs_trained_differently_do_not_stand_in_one_table(
    fake_record: Make, write_records: Write, first: dict[str, Any], second: dict[str, Any], key: str
) -> None:
    with pytest.raises(DataError, match=key):
        tables_of(write_records(fake_record(**{"config": trained()} | first), fake_record(**second)))


def test_seeds_rates_of_settings_and_lengths_of_controls_may_differ(fake_record: Make, write_records: Write) -> None:
    records = [
        fake_record(config=trained(seed=42)),
        fake_record(seed=43, config=trained(seed=43)),
        fake_record(setting="DeepHE3+Grad", config=trained(learning_rate=0.5)),
        fake_record(label="DeepHE3 (equal time)", config=trained(max_steps=1200)),
        fake_record("MM", config=trained(max_steps=600)),
    ]
    (table,) = tables_of(write_records(*records))
    assert len([row for row in table.rows if row.records]) == 4


def test_what_is_of_the_method_the_backbone_or_a_newer_version_may_differ(
    fake_record: Make, write_records: Write
) -> None:
    method, old = trained({"operator": "packed", "trace_width": 8}, lambda_trace=0.1, trace_loss="mse"), trained()
    old["model"] = {}  # from before its keys were known
    second = trained({"hermitian": False}, rotate_after=0.6)
    records = [
        fake_record("MM", config=trained()),
        fake_record("MM", "DeepHE3+TraceGrad", config=method),
        fake_record("MM", "DeepHE3+Grad", config=old),
        fake_record("MM", "HarmoSE", config=second),
        fake_record("MM", "HarmoSE+TraceGrad", config=second),
    ]
    assert len([row for table in tables_of(write_records(*records)) for row in table.rows if row.records]) == 5


def test_latex_is_well_formed(fake_record: Make, write_records: Write) -> None:
    tables = tables_of(write_records(fake_record(source="/data_1/50%&co"), fake_record("BB", source="/data_1/50%&co")))
    for table in tables:
        text = latex(table)
        rows = [line for line in text.splitlines() if line.endswith(r" \\")]
        assert len(rows) == len(table.rows) + 2
        assert all(row.count(" & ") == 8 for row in rows[1:])
        assert text.count(r"\begin{") == text.count(r"\end{") == 2
        assert text.count("{") == text.count("}")
        assert text.count(r"\midrule") == len(table.layout.columns)
        assert r"/data\_1/50\%\&co" in text


def test_latex_escapes_every_special_character() -> None:
    assert latex_escape("a_b & 5 % {x} #1 $ ~ ^ \\") == (
        r"a\_b \& 5 \% \{x\} \#1 \$ \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.2514, "0.251"), (12.345, "12.35"), (123.45, "123.5")], ids=str
)
def test_errors_have_the_digits_of_the_paper(value: float | None, text: str) -> None:
    assert error_text(value) == text


def test_small_p_values_are_not_printed_as_zero() -> None:
    assert (p_text(1e-9), p_text(0.0312), p_text(None)) == ("< 0.0001", "0.031", "–")


def test_records_survive_the_way_through_json(fake_record: Make, write_records: Write) -> None:
    record = fake_record()
    (read,) = load_records(write_records(record) / "runs")
    assert read.raw == json.loads(json.dumps(record))
