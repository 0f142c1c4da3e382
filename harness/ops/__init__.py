"""Operations with more than one implementation: one table, operation x provider.

The `torch` row of an operation is its definition; every other provider is tested against it.
"""

from harness.ops.table import PROVIDERS, TABLE, resolve, resolve_operations

__all__ = ["PROVIDERS", "TABLE", "resolve", "resolve_operations"]
