"""Packages the project for Beam workers (`--setup_file`); pyproject.toml declares it."""

from setuptools import setup

setup()
