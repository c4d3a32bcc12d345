"""How much one request may ask for: the settings max_…, what they are by default, and what they may be.

Whoever goes beyond one is told its name, so that who runs the service knows what to set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Limits:
    """What is in force."""

    max_body_bytes: int = 64 * 1024 * 1024
    max_values: int = 3_000_000  # of a body; Synthea's records have 24,000 a megabyte
    max_depth: int = 100  # of objects and lists in each other
    max_entries: int = 5000  # of a Bundle that is sent to us
    max_page: int = 500  # resources on a page
    max_page_bytes: int = 32 * 1024 * 1024  # of the resources on a page; of those that come along; of other reads
    max_parameters: int = 100  # of a search
    max_alternatives: int = 1000  # values of all its parameters together, what commas part counted singly
    max_asked: int = 10_000  # values times types of a search over several: each type is asked for by itself
    max_chain: int = 4  # references that one parameter follows
    max_chain_types: int = 400  # types that it goes through: four references that lead anywhere are 70,000
    max_included: int = 1000  # resources that come along with a page
    max_sorted: int = 10_000  # matches of a search that is sorted
    max_search_s: float = 10.0  # after which a search ends without an answer
    max_document: int = 1000  # resources of a document, and that a summary is made of
    max_attempts: int = 5  # of a patch, while others change the same resource
    max_batch_s: float = 60.0  # after which no further entry of a batch is begun
    max_batch_bytes: int = 64 * 1024 * 1024  # of the answers in a batch-response, after which none is either


# The least and the most. The parser recurses, each criterion is a join and each value a bound variable: what goes
# further than this fails in them, and without a word that helps.
RANGES: Mapping[str, tuple[float, float]] = MappingProxyType({
    "max_body_bytes": (1024, 1024**3),
    "max_values": (1000, 50_000_000),
    "max_depth": (10, 100),
    "max_entries": (1, 100_000),
    "max_page": (1, 10_000),
    "max_page_bytes": (1024, 1024**3),
    "max_parameters": (1, 100),
    "max_alternatives": (1, 10_000),
    "max_asked": (1, 10_000),
    "max_chain": (0, 8),
    "max_chain_types": (1, 400),
    "max_included": (0, 10_000),
    "max_sorted": (1, 100_000),
    "max_search_s": (0.05, 600.0),
    "max_document": (1, 10_000),
    "max_attempts": (1, 100),
    "max_batch_s": (0.05, 600.0),
    "max_batch_bytes": (1024, 1024**3),
})  # fmt: skip
