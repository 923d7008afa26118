"""lm-evaluation-harness, both ways; needs the extra `lm_eval`.

    kvfrontier run task=lm_eval 'task.names=[hellaswag]' method=snapkv
    kvfrontier lm-eval --model kvfrontier --model_args method=snapkv,budget=25% --tasks hellaswag

model.py    the model that the harness asks: any of ours, under any method
command.py  the harness's own command line, to which our model is known
"""

from kvfrontier.runners.errors import UsageError

#: The name of our model in the harness.
NAME = "kvfrontier"


def require() -> str:
    """The version of lm-evaluation-harness. Raises UsageError, with what to install, where it is missing."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lm_eval")
    except PackageNotFoundError:
        raise UsageError(
            "lm-evaluation-harness is not installed; pip install 'kvfrontier[lm_eval]' brings it"
        ) from None
