"""Seeded faults that the verifier must find, and sound controls that it must not flag: the test of the verifier itself.

`catalogue.CATALOGUE` lists them, `matrix.kill_matrix` runs the verifier on all of them, `python -m verify.mutants`
prints the matrix, counts false alarms over many seeded controls, and compares with e3nn's own tool.
"""
