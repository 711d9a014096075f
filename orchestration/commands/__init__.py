"""One module per command of the runners.

A module of this package imports nothing that takes long: what a command does is imported when it is
called, so that `--help` answers at once.
"""
