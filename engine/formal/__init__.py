"""The spec, checked: `check` runs TLC on the models in `specs/` and answers with typed results."""

from engine.formal.checker import CheckResult, ModelResult, MutantResult, Verdict, check
from engine.formal.errors import CheckError

__all__ = ["CheckError", "CheckResult", "ModelResult", "MutantResult", "Verdict", "check"]
