"""The trainer process: one a rank, started by torchrun (or alone). `compose` builds it, `Trainer` is what it does.

request -> collect (rank 0) -> broadcast the plan -> every rank reads its share -> train -> publish -> log
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from rgopd.common.children import PAUSED, PERMANENT, be_killed_with_parent
from rgopd.common.embedded import free_port
from rgopd.common.errors import RgopdError
from rgopd.common.memory import give_back_large_blocks
from rgopd.common.telemetry import configure_logging
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.records.live import Live
from rgopd.trainer.records.monitors import check_backends
from rgopd.trainer.records.prometheus import serve_metrics
from rgopd.trainer.rollouts.orchestrator import MAX_VANISHED
from rgopd.trainer.rollouts.patience import longest_wait_s, patience_of, rows_of
from rgopd.trainer.run.checkpoint import disk_trouble
from rgopd.trainer.run.collective import local_rank
from rgopd.trainer.run.compose import compose
from rgopd.trainer.run.resolved import write_resolved
from rgopd.trainer.student.fsdp_options import backend_for, pick_device

log = logging.getLogger(__name__)

SMALLER = "train.gradient_checkpointing=true, a smaller train.batch.micro_batch_tokens, train.lora=16"


def train(config: TrainConfig, log_file: Path | None = None) -> int:
    """Run this rank; returns the exit code. `log_file`: where its log goes instead of stderr."""
    configure_logging(f"trainer-{os.environ.get('RANK', '0')}", config.log_level, log_file)
    check_backends(config.monitor)
    _join_ranks(config)
    live = Live(None)
    try:
        if dist.get_rank() == 0:
            write_resolved(config)
            patience = patience_of(config, max(rows_of(config), config.eval.groups_per_request))
            live = Live(config.output_dir, config.run_id, dist.get_world_size(), patience.step_s)
            if config.watch.metrics_port:
                live.metrics = serve_metrics(config.watch.metrics_host, config.watch.metrics_port)
        finished = compose(config, stop_on_signal(), live).run()
    except (RgopdError, FloatingPointError) as error:
        log.critical("%s", error)
        live.end("failed", str(error))
        if dist.get_rank() != 0:
            time.sleep(3)  # rank 0 says why; its exit code must be the one that the launcher sees
        return 1 if isinstance(error, RgopdError) and error.retryable else PERMANENT
    except torch.OutOfMemoryError as error:
        text = f"out of GPU memory ({str(error).split('.')[0]}): `rgopd plan` names what to turn down, e.g. {SMALLER}"
        log.critical("%s", text)
        live.end("failed", text)
        return PERMANENT
    except (OSError, CheckpointException) as error:
        if (trouble := disk_trouble(error)) is None:
            raise
        log.critical("%s; checkpoints that were whole still are: the same command goes on from the newest", trouble)
        live.end("failed", trouble)
        return 1
    finally:
        dist.destroy_process_group()
    return 0 if finished else PAUSED


def stop_on_signal() -> Callable[[], bool]:
    """SIGTERM and SIGINT ask for a stop between two steps, with a checkpoint; asked again, the process ends at once."""
    asked = threading.Event()

    def ask(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return asked.is_set


def _join_ranks(config: TrainConfig) -> None:
    """The process group, of one rank where no launcher says otherwise."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        be_killed_with_parent()
    for key, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(key, value)
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(free_port())
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = pick_device(config.device, local_rank())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        give_back_large_blocks()
    # The other ranks wait in a collective while rank 0 collects or evaluates, which may take this long.
    limit_s = MAX_VANISHED * longest_wait_s(config)
    dist.init_process_group(backend_for(device), timeout=timedelta(seconds=max(1800.0, limit_s)))
