"""Formulas: tensors in, tensors out. No modules, no files, no settings.

A function here has a symbol or an equation number in a paper, and can be tested with four numbers. Masks are
bool and True means *counts*; a slot that does not count may hold anything, even NaN, without changing a
result.

Legend of axes: B rows (replies), R response length, K replies to one prompt, D width, V vocabulary, n tokens
in a row.
"""
