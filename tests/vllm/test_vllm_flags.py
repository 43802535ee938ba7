"""vLLM's own argument parser takes what the manifests start it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.vllm

MANIFEST = "deploy/kubernetes/teacher/leaderworkerset/leaderworkerset.yaml"


@pytest.mark.parametrize(("template", "headless"), [("leaderTemplate", False), ("workerTemplate", True)])
def test_the_flags_of_a_teacher_over_two_nodes(repository: Path, template: str, headless: bool) -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    made: dict[str, Any] = yaml.safe_load((repository / MANIFEST).read_text())
    pod = made["spec"]["leaderWorkerTemplate"][template]["spec"]
    [container] = [c for c in pod["containers"] if c["name"] == "vllm"]
    variables = {"$(LWS_WORKER_INDEX)": "1", "$(LWS_LEADER_ADDRESS)": "leader", "$(VLLM_MODEL)": "/models/x"}
    argv = container["command"][2:]
    for name, value in variables.items():
        argv = [word.replace(name, value) for word in argv]
    given = make_arg_parser(FlexibleArgumentParser()).parse_args(argv)
    ranks = given.tensor_parallel_size * given.pipeline_parallel_size
    assert ranks == given.nnodes * container["resources"]["limits"]["nvidia.com/gpu"]
    assert (given.node_rank, given.master_addr, given.headless) == (1, "leader", headless)
    assert given.enable_scale_out, "or it has no log-probs at the student's ids"
