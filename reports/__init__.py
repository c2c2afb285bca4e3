"""Tables, figures and the page of a reproduction, drawn from run records (JSON files) alone.

Nothing here imports torch: a record that was made on a cluster can be read on a laptop. ``python -m reports FOLDER``
rebuilds everything that ``nox -s reproduce`` wrote beside ``FOLDER/runs/*.json``.
"""
