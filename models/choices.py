"""What a run may be asked to do with sets of ops that a table measured as one module; `models.modules` does it."""

CHOICES = ("auto", "never", "always")
