"""Rows with environments, before a run: are those there, can the student's template go on, does a conversation fit?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rgopd.common.errors import ConfigError
from rgopd.common.explain import did_you_mean

if TYPE_CHECKING:
    from rgopd.verifier.environment_config import EnvironmentConfig


def check_environments(named: dict[str, str], configured: dict[str, EnvironmentConfig]) -> None:
    """Those that rows name are the verifier's, and can be read.

    Raises:
        ConfigError: one is not; says which setting wants it.
    """
    from rgopd.verifier.environment_config import FEEDBACK, read_sources

    read_sources(configured)
    known = [FEEDBACK, *configured]
    for name in named:
        if name not in known:
            raise ConfigError(
                f"the dataset names the environment {name!r}, which the verifier does not have (it has "
                f"{', '.join(known)}){did_you_mean(name, known)}; set verifier.environments={{{name}: FILE or URL}}"
            )


def check_templates(named: dict[str, str], tokenizer: Any, whose: str = "student") -> None:
    """The chat template can go on after a turn; ConfigError says why it cannot."""
    from rgopd.common.between import Between

    for role in sorted(set(named.values())):
        Between(tokenizer, role, whose)


def has_turns(train: dict[str, Any]) -> bool:
    """Whether a raw section `train` has rows with environments."""
    from rgopd.trainer.prompts.config import DatasetConfig
    from rgopd.trainer.prompts.environments import environments_named

    return bool(train.get("dataset")) and bool(environments_named(DatasetConfig.model_validate(train["dataset"])))


def check_turns(sections: dict[str, Any]) -> str:
    """Doctor's: all of it, and what the longest conversation needs."""
    from rgopd.cli.checks import Failed
    from rgopd.cli.doctor import context_of, tokenizer_of
    from rgopd.trainer.config import TurnsConfig
    from rgopd.trainer.prompts.config import DatasetConfig
    from rgopd.trainer.prompts.environments import environments_named
    from rgopd.verifier.config import VerifierConfig

    train, teacher = sections["train"], sections.get("teacher", {}).get("model", "")
    dataset = DatasetConfig.model_validate(train["dataset"])
    turns = TurnsConfig.model_validate(train.get("turns", {}))
    named = environments_named(dataset)
    check_environments(named, VerifierConfig.from_mapping(sections.get("verifier", {})).environments)
    check_templates(named, tokenizer_of(train["student"]))
    longest = dataset.max_prompt_tokens + turns.max_total_tokens
    context = context_of(train["student"])
    reached = min(longest, context)
    if teacher and context_of(teacher) < reached:
        raise Failed(
            f"a conversation may have {reached} tokens, and the teacher's context is {context_of(teacher)}: lower "
            "turns.max_total_tokens or dataset.max_prompt_tokens"
        )
    ends = f"; the student's context of {context} ends them there" if context < longest else ""
    return (
        f"{', '.join(sorted(named))}: up to {turns.max_turns} turns and {longest} tokens with the prompt{ends}; the "
        "chat template goes on after each"
    )


def try_environments(sections: dict[str, Any]) -> str:
    """Doctor's: every environment but `feedback` answers a word, with the arguments of the first row that names it.

    Raises:
        Failed: one is an `error`, which no student could repair.
    """
    import json

    from rgopd.cli.checks import Failed
    from rgopd.trainer.prompts.config import DatasetConfig
    from rgopd.trainer.prompts.environments import first_of_each
    from rgopd.verifier.config import VerifierConfig
    from rgopd.verifier.environment_config import FEEDBACK
    from rgopd.verifier.environments.base import Episode
    from rgopd.verifier.environments.service import Environments
    from rgopd.verifier.main import build_engine

    config = VerifierConfig.from_mapping({**sections.get("verifier", {}), "workers": 1, "math_workers": 1})
    rows = first_of_each(DatasetConfig.model_validate(sections["train"]["dataset"]))
    check_environments({name: row.role for name, row in rows.items()}, config.environments)
    asked = {name: row for name, row in rows.items() if name != FEEDBACK}
    if not asked:
        return "the check's own feedback"
    engine, _ = build_engine(config)
    environments = Environments(config.environments, engine)
    try:
        for name, row in asked.items():
            episode = Episode("doctor", name, json.loads(row.args_json or "{}"), 0, ("Hello.",))
            said = environments.submit([episode])[0].result()
            if said.error:
                raise Failed(f"environment {name!r}, asked with the arguments of its first row: {said.error}")
    finally:
        environments.close()
        engine.close()
    return f"{', '.join(sorted(asked))} answered"
