"""Everything stands in pyproject.toml; this only builds the C extension."""

from setuptools import setup

setup(cffi_modules=["native/build_mover.py:ffi"])
