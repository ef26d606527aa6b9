"""Benchmarks: what Holdfast does in a second, beside what bare tools do in the same run.

Figures of one machine and moment mean little by themselves, so each is given as a ratio to a floor
that was measured between the same rounds.
"""
