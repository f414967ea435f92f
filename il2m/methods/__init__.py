"""Methods: scores in, scores out. Nothing here loads torch."""

from il2m.methods import builtin as builtin  # registers the study's own
