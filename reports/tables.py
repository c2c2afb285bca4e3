"""Tables 1, 2 and 3: one row per database, subset and method, ours and the paper's values in columns of their own.

The two "cha" metrics follow arXiv:2401.00744: the error on the structure (block) where the *baseline* DeepHE3 of
the same seed is worst. They are computed here from the records, because a run does not know its baseline.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reports.equivariance import EquivarianceError
from reports.records import BASELINE, Comparison, RunRecord, SubsetMetrics, select
from reports.statistics import PairedTest, Summary, holm, paired_test, relative_change
from tracegrad.errors import DataError

PAPER = "paper (OpenMX data, other structures)"
METRICS = ("mae_all", "mae_cha_sample", "mae_cha_block")
PUBLISHED_CSV = Path(__file__).resolve().parent.parent / "benchmarks" / "published.csv"

_SETTINGS = ("DeepHE3", "DeepHE3+Trace", "DeepHE3+Grad", "DeepHE3+TraceGrad")


@dataclass(frozen=True)
class Layout:
    """What one table of the paper holds.

    Args:
        number: its number in the paper.
        columns: (database, subset) pairs in the paper's order.
        methods: rows of each pair in the paper's order.
        reference: the method that relative changes refer to.
        title: one line for the caption.
    """

    number: int
    columns: tuple[tuple[str, str], ...]
    methods: tuple[str, ...]
    reference: str
    title: str


LAYOUTS: tuple[Layout, ...] = (
    Layout(1, (("MG", "all"), ("MM", "all")), _SETTINGS, BASELINE, "monolayer graphene (MG) and MoS2 (MM)"),
    Layout(
        2,
        tuple((dataset, subset) for dataset in ("BG", "BB", "BT", "BS") for subset in ("nt", "t")),
        _SETTINGS,
        BASELINE,
        "bilayers: graphene (BG), bismuthene (BB), Bi2Te3 (BT), Bi2Se3 (BS); nt = not twisted, t = twisted",
    ),
    Layout(3, (("MM", "all"),), ("DeepH-2", "HarmoSE", "HarmoSE+TraceGrad"), "HarmoSE", "second backbone on MoS2 (MM)"),
)


@dataclass(frozen=True)
class Cell:
    """One metric of one row.

    Args:
        summary: our values over the seeds, meV; None where there are none.
        change: relative change of the mean against the reference method over the seeds that both have; None for the
            reference itself and without such a seed.
        paper: the published value, meV; None where the paper has none.
        paper_change: its relative change against the published value of the reference method.
        seeds: seeds of our values, in their order.
        change_seeds: seeds that the change is over.
    """

    summary: Summary | None = None
    change: float | None = None
    paper: float | None = None
    paper_change: float | None = None
    seeds: tuple[int, ...] = ()
    change_seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """One method on one subset of one database.

    Args:
        dataset: key of the database.
        subset: ``"all"``, ``"nt"`` or ``"t"``.
        method: setting or label of a control.
        cells: by metric name.
        records: the runs behind the row, ordered by seed.
        equivariance: what the verifier measured where the network is approximate by design.
        most: largest number of runs of any method on the same subset.
    """

    dataset: str
    subset: str
    method: str
    cells: Mapping[str, Cell]
    records: tuple[RunRecord, ...] = ()
    equivariance: EquivarianceError | None = None
    most: int = 0


@dataclass(frozen=True)
class Table:
    """One of the paper's tables for one comparison.

    Args:
        layout: what it holds.
        comparison: source, preset and recipe of every record in it.
        rows: in the paper's order, controls after the settings.
        tests: paired tests by (database, subset), all pairs of networks, with Holm-adjusted p-values of both tests.
    """

    layout: Layout
    comparison: Comparison
    rows: tuple[Row, ...]
    tests: Mapping[tuple[str, str], tuple[AdjustedTest, ...]] = field(default_factory=dict)

    @property
    def approximate(self) -> bool:
        """Whether a row is of a network that is equivariant only as far as it has learned to be."""
        return any(row.equivariance for row in self.rows)

    def over_seeds(self, row: Row) -> AdjustedTest | None:
        """Test over the seeds of a row against the reference method; None with fewer than three seeds."""
        pair = {row.method, self.layout.reference}
        tests = self.tests.get((row.dataset, row.subset), ())
        return next((t for t in tests if t.test.over == "seeds" and {t.test.first, t.test.second} == pair), None)

    @property
    def title(self) -> str:
        """What its runs share, with their steps where those of the paper's rows agree: ``..., 3,000 steps``."""
        return self.comparison.title + steps_text([self])


@dataclass(frozen=True)
class AdjustedTest:
    """A paired test and its p-values adjusted for all pairs of the same subset.

    Args:
        test: the test.
        p_t: Holm-adjusted p-value of Student's t.
        p_wilcoxon: Holm-adjusted p-value of Wilcoxon's test.
    """

    test: PairedTest
    p_t: float | None
    p_wilcoxon: float | None


def read_published(path: Path = PUBLISHED_CSV) -> dict[tuple[int, str, str, str], dict[str, float]]:
    """Read the paper's tables.

    Args:
        path: CSV with the columns table, dataset, subset, method and the three metrics in meV.

    Returns:
        metric values by (table, database, subset, method); metrics that the paper leaves out are missing.

    Raises:
        DataError: the file is missing or lacks a column.
    """
    published: dict[tuple[int, str, str, str], dict[str, float]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for line in csv.DictReader(stream):
                values = {metric: float(line[f"{metric}_mev"]) for metric in METRICS if line[f"{metric}_mev"]}
                published[int(line["table"]), line["dataset"], line["subset"], line["method"]] = values
    except FileNotFoundError as error:
        raise DataError(f"expected the published tables at {path}, found no file; restore it from git") from error
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: expected the columns of the published tables, found {error!r}") from error
    return published


def build_tables(
    comparison: Comparison,
    records: Sequence[RunRecord],
    published: Mapping[tuple[int, str, str, str], Mapping[str, float]],
    equivariance: Mapping[str, EquivarianceError] | None = None,
) -> list[Table]:
    """Build every table that at least one record belongs to; rows without a record stay, empty.

    A mean is over all seeds of its row; of a challenging metric over those that the baseline was trained with too. A
    relative change compares the means over the seeds that a row and its reference both have.

    Args:
        comparison: what the records share.
        records: the records of that comparison.
        published: the paper's values, from `read_published`.
        equivariance: errors of approximate networks, from `equivariance_errors`.

    Returns:
        tables in the paper's order.
    """
    return [
        _build_table(layout, comparison, records, published, equivariance or {})
        for layout in LAYOUTS
        if any(_belongs(record, layout) for record in records)
    ]


def _belongs(record: RunRecord, layout: Layout) -> bool:
    """Say whether a record makes a row of a table: HarmoSE's go to Table 3, others to their database's."""
    if record.dataset not in {dataset for dataset, _ in layout.columns}:
        return False
    return record.setting.startswith("HarmoSE") == (layout.number == 3)


def _build_table(
    layout: Layout,
    comparison: Comparison,
    records: Sequence[RunRecord],
    published: Mapping[tuple[int, str, str, str], Mapping[str, float]],
    equivariance: Mapping[str, EquivarianceError],
) -> Table:
    """Build one table: the paper's rows, then the controls that have records."""
    rows: list[Row] = []
    tests: dict[tuple[str, str], tuple[AdjustedTest, ...]] = {}
    members = [record for record in records if _belongs(record, layout)]
    for dataset, subset in layout.columns:
        extra = sorted({record.label for record in members if record.dataset == dataset} - set(layout.methods))
        chosen = {label: select(members, dataset=dataset, label=label) for label in (*layout.methods, *extra)}
        chosen = {label: [r for r in runs if subset in r.subsets] for label, runs in chosen.items()}
        baselines = {record.seed: record for record in select(records, dataset=dataset, label=BASELINE)}
        values = {label: _by_seed(runs, subset, baselines) for label, runs in chosen.items()}
        paper = {label: published.get((layout.number, dataset, subset, label), {}) for label in chosen}
        most = max(map(len, chosen.values()))
        for label, runs in chosen.items():
            cells = {m: _cell(m, label, layout.reference, values, paper) for m in METRICS}
            measured = equivariance.get(f"{dataset} {label}") if runs else None
            rows.append(Row(dataset, subset, label, cells, tuple(runs), measured, most))
        found = _tests(chosen, subset)
        if found:
            tests[dataset, subset] = found
    return Table(layout, comparison, tuple(rows), tests)


def _cell(
    metric: str,
    label: str,
    reference: str,
    values: Mapping[str, Mapping[str, Mapping[int, float]]],
    paper: Mapping[str, Mapping[str, float]],
) -> Cell:
    """Join our values, the paper's, and the change of both against the reference method."""
    ours, base = values[label].get(metric, {}), values.get(reference, {}).get(metric, {})
    quoted, quoted_base = paper[label].get(metric), paper.get(reference, {}).get(metric)
    summary = Summary(tuple(ours.values())) if ours else None
    if label == reference:
        return Cell(summary, None, quoted, None, tuple(ours))
    common = sorted(ours.keys() & base.keys())
    change = relative_change(sum(ours[seed] for seed in common), sum(base[seed] for seed in common))  # none: 0 / 0
    paper_change = relative_change(quoted, quoted_base) if quoted is not None and quoted_base is not None else None
    return Cell(summary, change, quoted, paper_change, tuple(ours), tuple(common))


def _by_seed(runs: Sequence[RunRecord], subset: str, baselines: Mapping[int, RunRecord]) -> dict[str, dict[int, float]]:
    """Collect the three metrics by seed; the challenging ones of the seeds with a baseline, none without any."""
    columns: dict[str, dict[int, float]] = {metric: {} for metric in METRICS}
    for run in runs:
        metrics = run.subsets[subset]
        columns["mae_all"][run.seed] = metrics.mae_all
        baseline = baselines.get(run.seed)
        if baseline is not None and subset in baseline.subsets:
            for metric, value in challenging(metrics, baseline.subsets[subset]).items():
                columns[metric][run.seed] = value
    return {metric: values for metric, values in columns.items() if values}


def challenging(metrics: SubsetMetrics, baseline: SubsetMetrics) -> dict[str, float]:
    r"""Errors where the baseline is worst.

    .. math:: m_{s^*},\ s^* = \arg\max_s m_s^{base}; \qquad b_{q^*},\ q^* = \arg\max_q b_q^{base}

    Args:
        metrics: errors of a setting.
        baseline: errors of DeepHE3 with the same seed on the same structures.

    Returns:
        ``mae_cha_sample`` and ``mae_cha_block``, meV, as far as both sides carry what they need.

    Raises:
        DataError: the setting was not tested on the structure or block where the baseline is worst.
    """
    pairs = {
        "mae_cha_sample": (metrics.per_structure, baseline.per_structure),
        "mae_cha_block": (metrics.mae_block, baseline.mae_block),
    }
    found = {}
    for name, (ours, theirs) in pairs.items():
        if not ours or not theirs:
            continue
        worst = max(sorted(theirs), key=lambda key: theirs[key])
        if worst not in ours:
            raise DataError(
                f"{name}: the baseline is worst on {worst!r}, which the setting was not tested on (it has "
                f"{', '.join(sorted(ours)[:5])}, ...); both must be tested on the same structures and orbitals"
            )
        found[name] = ours[worst]
    return found


def _tests(chosen: Mapping[str, Sequence[RunRecord]], subset: str) -> tuple[AdjustedTest, ...]:
    """Test all pairs of networks over the test structures, and over the seeds where there are three or more."""
    labels = [label for label, runs in chosen.items() if any(run.parameters for run in runs)]
    families: list[list[PairedTest]] = [[], []]
    for position, second in enumerate(labels):
        for first in labels[position + 1 :]:
            ours, theirs = _common_seeds(chosen[first], chosen[second])
            if not ours:
                continue
            left, right = structure_means(ours, subset), structure_means(theirs, subset)
            if left and right:
                families[0].append(paired_test(left, right, (first, second)))
            if len(ours) >= 3:
                by_seed = [{r.seed: r.subsets[subset].mae_all for r in runs} for runs in (ours, theirs)]
                keyed = [{str(seed): value for seed, value in side.items()} for side in by_seed]
                families[1].append(paired_test(keyed[0], keyed[1], (first, second), "seeds"))
    return tuple(adjusted for family in families for adjusted in _adjust(family))


def _adjust(family: Sequence[PairedTest]) -> list[AdjustedTest]:
    """Adjust the p-values of one family of tests."""
    p_t, p_w = holm([test.p_t for test in family]), holm([test.p_wilcoxon for test in family])
    return [AdjustedTest(test, t, w) for test, t, w in zip(family, p_t, p_w, strict=True)]


def _common_seeds(first: Sequence[RunRecord], second: Sequence[RunRecord]) -> tuple[list[RunRecord], list[RunRecord]]:
    """Runs of both methods whose seed the other has too."""
    seeds = {run.seed for run in first} & {run.seed for run in second}
    return [run for run in first if run.seed in seeds], [run for run in second if run.seed in seeds]


def structure_means(runs: Sequence[RunRecord], subset: str) -> dict[str, float]:
    """Error of each test structure, averaged over runs.

    Args:
        runs: runs of one method with different seeds.
        subset: subset of the test structures.

    Returns:
        mean error by structure, meV; empty when some run does not carry the errors by structure.
    """
    columns = [run.subsets[subset].per_structure for run in runs]
    if not all(columns):
        return {}
    return {name: Summary(tuple(column[name] for column in columns)).mean for name in columns[0]}


def steps_text(tables: Sequence[Table]) -> str:
    """Say how many steps the paper's rows took, ``, 3,000 steps``; nothing where they differ."""
    runs = (run for table in tables for row in table.rows if row.method in table.layout.methods for run in row.records)
    steps = {run.raw.get("steps") for run in runs}
    return f", {steps.pop():,} steps" if len(steps) == 1 and None not in steps else ""
