"""Packages the project for Beam workers (`--setup_file`); everything is declared in pyproject.toml."""

from setuptools import setup

setup()
