"""What runs on the router: Python's standard library only, under Debian 13's Python 3.13."""
