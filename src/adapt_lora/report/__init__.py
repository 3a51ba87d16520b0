"""Pictures, tables, pages and JSON objects made from records.

Each module is imported where it is needed, so that a table never waits for matplotlib.
"""

__all__ = ["card", "fingerprint_page", "plain", "plots", "recommendation_page", "tables"]
