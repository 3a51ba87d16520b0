"""Fingerprints: what is known of a dataset before any adapter has been tried on it."""

from adapt_lora.registry.fingerprint.dataset import fingerprint_dataset
from adapt_lora.registry.fingerprint.duplicates import LeakReport, leak_report
from adapt_lora.registry.fingerprint.known import known_fingerprint

__all__ = ["LeakReport", "fingerprint_dataset", "known_fingerprint", "leak_report"]
