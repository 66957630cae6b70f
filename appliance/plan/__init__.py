"""The resolved site: every address, timer and number decided, frozen, ready for pure renderers."""
