"""Runs the paper's tables (a grid of databases, settings and seeds, run by run, resumable) and measures speed.

Not installed: works from the checkout, ``python -m benchmarks --dataset MG`` (what ``nox -s reproduce`` calls).
"""
