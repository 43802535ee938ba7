"""A teacher behind somebody else's server: what `doctor` asks it, and whether the run can do with what it gives."""

from __future__ import annotations

from typing import Any

from rgopd.common.errors import ConfigError
from rgopd.teacher.engines.waiting import unanswered


def unanswered_yet(checked: dict[str, Any]) -> list[str]:
    """A line for each teacher's server that does not answer: it may be up later, or its address is wrong."""
    teachers = {"teacher": checked["teacher"], **checked["teachers"]}
    return [
        f"{name}: no server answers yet at {config.server_url} ({why}); the run waits for it, up to "
        f"up.ready_timeout_s={checked['up'].ready_timeout_s:g} s"
        for name, config in teachers.items()
        if (why := unanswered(config, timeout_s=2.0))
    ]


def check_teacher_server(sections: dict[str, Any]) -> str:
    """Ask the server of an engine in `engines.waiting.ELSEWHERE` for a few log-probs.

    Raises:
        ConfigError: it cannot be asked, or gives less than the run needs; says what to set.
    """
    from rgopd.cli.checked import check_sections
    from rgopd.cli.preflight import check_completion_server, temperatures
    from rgopd.teacher.engines import make_engine

    checked = check_sections(sections)
    teacher, train = checked["teacher"], checked["train"]
    check_completion_server(teacher, train)
    engine = make_engine(teacher)
    info = engine.info
    engine.close()
    support, k = train.distillation.support, train.distillation.width
    if support not in info.supports:
        raise ConfigError(
            f"train.distillation.support={support}: this server gives {' or '.join(info.supports)} ({info.scoring})"
        )
    if k > info.max_k:
        raise ConfigError(f"train.distillation.k={k}: this server gives at most {info.max_k}")
    if not info.any_temperature and any(t != 1 for t in temperatures(train)):
        raise ConfigError("train.sampling: this server scores at temperature 1 only")
    text = ""
    if info.reads_text:
        if not train.build_objective().aligns:
            raise ConfigError(
                f"this server takes text, so rollouts are compared by their bytes, and objective "
                f"{train.objective.name!r} cannot: take reverse_kl, rg_opd, or a weighted_sum of them"
            )
        text = ", asked in text, so that rollouts are aligned by their bytes"
    return f"{info.model}, {info.scoring}, up to {info.max_context} ids{text}"
