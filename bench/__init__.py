"""Measures every budget of the design beside peers, in one run: ``scripts/bench``, or ``python -m bench``.

What counts is the ratio to a peer that was driven in the same minutes on the same machine; absolute figures are shown
for orientation. Nothing here is asserted in a test: a missed budget is reported as missed.
"""
