"""The base model: loading and identity, adapters put on and off, one place that runs it forward."""
