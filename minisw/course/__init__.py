"""The course command, `python -m minisw.course`: hands out assignments, grades them, and tests its own tests."""
