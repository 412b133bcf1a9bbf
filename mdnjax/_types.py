"""Array aliases shared by every room of the house."""

from typing import TypeAlias

import jax
from jax.typing import ArrayLike as ArrayLike
from jaxtyping import PRNGKeyArray

Array: TypeAlias = jax.Array
Key: TypeAlias = PRNGKeyArray
Shape: TypeAlias = tuple[int, ...]
