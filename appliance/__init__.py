"""Compose, test and run a highly available Debian router from one site file."""

__version__ = "0.1.0"
