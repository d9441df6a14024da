"""The commands, one module a subject: each parses its options, calls one function, and prints the result.

Read `shared.py` first: it declares the options that several commands have.
"""
