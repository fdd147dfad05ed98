"""Conformance classes: a subclass says how to make the thing, and gets every check of its contract."""

import pkgutil

import pytest

# Bare assertions here are not in test files, so pytest must be told to explain them too.
for _module in pkgutil.iter_modules(__path__):
    pytest.register_assert_rewrite(f"{__name__}.{_module.name}")
