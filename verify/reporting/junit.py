"""JUnit XML of a report: one test case per check, figures as properties of the suite and in the output of the case."""

from __future__ import annotations

from xml.etree import ElementTree

from ..result import CheckResult, Report, Verdict


def _printable(text: str) -> str:
    """Text without the control characters that XML 1.0 forbids."""
    return "".join(
        c for c in text if c in "\t\n\r" or 0x20 <= ord(c) < 0xD800 or 0xE000 <= ord(c) < 0xFFFE or ord(c) > 0xFFFF
    )


def _case(suite: ElementTree.Element, name: str, target: str) -> ElementTree.Element:
    case = ElementTree.SubElement(suite, "testcase")
    case.set("classname", _printable(f"equivariance.{target}"))
    case.set("name", _printable(name))
    case.set("time", "0")
    return case


def _fill(case: ElementTree.Element, check: CheckResult) -> None:
    """Failure of a check that did not pass, and its line as output."""
    text = check.line()
    if check.counterexample is not None:
        text += f"\n{check.counterexample.code}"
    if not check.passed:
        kind = "error" if check.verdict in (Verdict.VACUOUS, Verdict.HARNESS_NOISE) else "failure"
        problem = ElementTree.SubElement(case, kind)
        problem.set("type", check.verdict.value)
        problem.set(
            "message", _printable(f"error {check.error:.3e} tolerance {check.tolerance:.3e} {check.message}".strip())
        )
        problem.text = _printable(text)
    ElementTree.SubElement(case, "system-out").text = _printable(text)


def to_junit(report: Report) -> str:
    """Report as JUnit XML.

    Checks that broke are ``failure``; checks that had nothing to test, and a noisy harness, are ``error``; checks
    that do not apply are ``skipped``.

    Args:
        report: the report.

    Returns:
        XML document with one ``testsuite``.
    """
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(root, "testsuite")
    suite.set("name", _printable(f"equivariance {report.target}"))
    properties = ElementTree.SubElement(suite, "properties")
    figures = {"verdict": report.verdict.value, "exit_code": report.exit_code, "noise_floor": report.noise_floor.value}
    for name, value in {**figures, **report.settings, **report.environment}.items():
        item = ElementTree.SubElement(properties, "property")
        item.set("name", _printable(str(name)))
        item.set("value", _printable(str(value)))
    floor = _case(suite, "self_check", report.target)
    if not report.noise_floor.ok:
        problem = ElementTree.SubElement(floor, "error")
        problem.set("type", Verdict.HARNESS_NOISE.value)
        problem.set("message", "the instruments are too noisy to judge anything")
        problem.text = _printable(report.noise_floor.line())
    for check in report.checks:
        _fill(_case(suite, check.name, report.target), check)
    for name, reason in report.skipped.items():
        ElementTree.SubElement(_case(suite, name, report.target), "skipped").set("message", _printable(reason))
    for tag, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        count = str(sum(1 for case in suite.iter("testcase") if case.find(tag) is not None))
        suite.set(attribute, count)
    suite.set("tests", str(len(suite.findall("testcase"))))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
