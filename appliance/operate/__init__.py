"""What an operator does with a site that runs: look at it, hand over, see what would survive."""
