"""Pictures, tables and pages from records and from the objects of `--json`.

Each module is imported where it is needed, so that a table never waits for matplotlib.
"""

__all__ = ["card", "fingerprint_page", "plots", "recommendation_page", "tables"]
