"""Pure renderers: a plan in, the text of every file on every node out."""
