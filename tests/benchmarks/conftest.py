"""The recommender's synthetic shelves."""

from tests.recommender.conftest import make_matrix, make_table

__all__ = ["make_matrix", "make_table"]
